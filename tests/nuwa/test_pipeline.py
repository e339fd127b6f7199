"""The pipeline folder: complete, readable by diffusers itself, and a clear line for every way it can be broken."""

import json
from pathlib import Path

import pytest
import torch

from nuwa.generate.pipeline import NuwaXLPipeline
from nuwa.generate.pipeline_folder import load_pipeline, save_pipeline, weights_fingerprint
from nuwa.hierarchy import NuwaError
from tests.nuwa import stack


@pytest.fixture(scope="module")
def pipe() -> NuwaXLPipeline:
    return stack.build()


@pytest.fixture
def folder(pipe: NuwaXLPipeline, tmp_path: Path) -> Path:
    save_pipeline(pipe, tmp_path / "model")
    return tmp_path / "model"


def assert_same_weights(one: NuwaXLPipeline, other: NuwaXLPipeline) -> None:
    for name in ("vae", "denoiser_global", "text_encoder"):
        expected, found = getattr(one, name).state_dict(), getattr(other, name).state_dict()
        assert expected.keys() == found.keys()
        assert all(torch.equal(expected[key], found[key]) for key in expected)


def test_saved_and_loaded_is_the_same(pipe: NuwaXLPipeline, folder: Path) -> None:
    loaded = load_pipeline(folder)
    assert_same_weights(pipe, loaded)
    assert (loaded.config.window_length, loaded.config.height, loaded.config.train_fps) == (5, 16, 8.0)
    assert loaded.scheduler.config.prediction_type == "v_prediction"
    prompts = ["a red star", ""]
    assert torch.equal(pipe.encode_prompts(prompts), loaded.encode_prompts(prompts))
    assert not any(weight.requires_grad for weight in loaded.denoiser_global.parameters())


def test_diffusers_itself_loads_the_folder(pipe: NuwaXLPipeline, folder: Path) -> None:
    assert_same_weights(pipe, NuwaXLPipeline.from_pretrained(folder))
    index = json.loads((folder / "model_index.json").read_text())
    assert index["denoiser_global"] == ["nuwa.models.mtd", "MaskTemporalUNet"]


def test_a_folder_does_not_tell_where_its_parts_came_from(folder: Path) -> None:
    save_pipeline(load_pipeline(folder), folder.parent / "again")
    assert not [path for path in (folder.parent / "again").rglob("*.json") if str(folder) in path.read_text()]
    assert weights_fingerprint(folder.parent / "again") == weights_fingerprint(folder)


def test_one_network_for_all_levels_is_stored_once(pipe: NuwaXLPipeline, folder: Path) -> None:
    assert pipe.denoiser_local is None
    assert pipe.denoiser_at(1) is pipe.denoiser_global
    assert not (folder / "denoiser_local").exists()


def test_two_networks_are_both_stored(tmp_path: Path) -> None:
    pipe = stack.build(shared=False)
    save_pipeline(pipe, tmp_path / "model")
    loaded = load_pipeline(tmp_path / "model")
    assert loaded.denoiser_at(0) is loaded.denoiser_global
    assert loaded.denoiser_at(2) is loaded.denoiser_local
    assert not torch.equal(loaded.denoiser_global.conv_in.weight, loaded.denoiser_local.conv_in.weight)


def test_half_precision_is_for_the_disk_only(pipe: NuwaXLPipeline, tmp_path: Path) -> None:
    before = pipe.vae.encoder.conv_in.weight.clone()
    save_pipeline(pipe, tmp_path / "full")
    save_pipeline(pipe, tmp_path / "half", dtype=torch.float16)
    full, half = ((tmp_path / name / "vae").glob("*.safetensors") for name in ("full", "half"))
    assert next(half).stat().st_size < 0.6 * next(full).stat().st_size
    loaded = load_pipeline(tmp_path / "half").vae.encoder.conv_in.weight
    assert loaded.dtype == torch.float32
    torch.testing.assert_close(loaded, before, atol=1e-3, rtol=1e-3)
    assert torch.equal(pipe.vae.encoder.conv_in.weight, before)


def test_saving_again_replaces_and_leaves_nothing_behind(pipe: NuwaXLPipeline, folder: Path) -> None:
    before = weights_fingerprint(folder)
    save_pipeline(pipe, folder)
    assert weights_fingerprint(folder) == before
    save_pipeline(stack.build(seed=1), folder)
    assert weights_fingerprint(folder) != before
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def test_a_folder_of_something_else_is_left_alone(pipe: NuwaXLPipeline, tmp_path: Path) -> None:
    (tmp_path / "letters.txt").write_text("dear")
    with pytest.raises(NuwaError, match="no pipeline folder"):
        save_pipeline(pipe, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["letters.txt"]


@pytest.mark.parametrize(
    "name",
    [
        "model_index.json",
        "vae/config.json",
        "vae/diffusion_pytorch_model.safetensors",
        "denoiser_global/diffusion_pytorch_model.safetensors",
        "text_encoder/diffusion_pytorch_model.safetensors",
        "tokenizer/tokenizer.json",
        "tokenizer/tokenizer_config.json",
        "scheduler/scheduler_config.json",
    ],
)
def test_a_missing_or_truncated_file_is_named(folder: Path, name: str) -> None:
    path = folder / name
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(NuwaError) as truncated:
        load_pipeline(folder)
    path.unlink()
    with pytest.raises(NuwaError) as missing:
        load_pipeline(folder)
    for message in (str(truncated.value), str(missing.value)):
        assert path.name in message
        assert str(path.parent) in message
        assert "\n" not in message


def test_weights_of_another_size_are_refused(folder: Path) -> None:
    path = folder / "denoiser_global" / "config.json"
    path.write_text(path.read_text().replace('"mask_channels": 4', '"mask_channels": 6'))
    with pytest.raises(NuwaError, match="cannot be loaded"):
        load_pipeline(folder)


def test_what_is_no_pipeline_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NuwaError, match="no pipeline folder"):
        load_pipeline(tmp_path / "nothing")
    with pytest.raises(NuwaError, match=r"model_index\.json is missing"):
        load_pipeline(tmp_path)
    (tmp_path / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    with pytest.raises(NuwaError, match="StableDiffusionPipeline"):
        load_pipeline(tmp_path)
