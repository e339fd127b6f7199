"""The pipeline folder: complete, readable by diffusers itself, and a clear line for every way it can be broken."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from nuwa.generate import pipeline_folder
from nuwa.generate.pipeline import NuwaXLPipeline
from nuwa.generate.pipeline_folder import load_pipeline, save_pipeline, weights_fingerprint
from nuwa.hierarchy import NuwaError
from tests.nuwa import stack
from tests.nuwa.small_files import files_up_to


@pytest.fixture(scope="module")
def pipe() -> NuwaXLPipeline:
    return stack.build()


def video(pipe: NuwaXLPipeline) -> np.ndarray:
    """Seven frames at two levels."""
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    return pipe(["a red star", "a blue circle"], 7, 2, generator=generator, output_type="np").frames


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


@pytest.mark.parametrize("shared", [True, False])
def test_frames_of_a_stored_pipeline_are_bitwise_those_of_the_first(tmp_path: Path, shared: bool) -> None:
    pipe = stack.build(shared=shared)
    pipe.save_pretrained(tmp_path / "whole")
    pipe.save_pretrained(tmp_path / "sharded", max_shard_size="40KB")
    assert len(list((tmp_path / "sharded" / "denoiser_global").glob("*-of-*.safetensors"))) > 1
    assert json.loads((tmp_path / "whole" / "model_index.json").read_text())["_class_name"] == "NuwaXLPipeline"
    expected = video(pipe)
    for name in ("whole", "sharded"):
        assert np.array_equal(video(NuwaXLPipeline.from_pretrained(tmp_path / name)), expected)
        assert np.array_equal(video(load_pipeline(tmp_path / name)), expected)


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
@pytest.mark.parametrize("read", [load_pipeline, NuwaXLPipeline.from_pretrained])
def test_a_missing_or_truncated_file_is_named(folder: Path, name: str, read: Callable) -> None:
    path = folder / name
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(NuwaError) as truncated:
        read(folder)
    path.unlink()
    with pytest.raises(NuwaError) as missing:
        read(folder)
    for message in (str(truncated.value), str(missing.value)):
        assert path.name in message
        assert str(path.parent) in message
        assert "\n" not in message


def test_a_missing_shard_is_named(pipe: NuwaXLPipeline, tmp_path: Path) -> None:
    pipe.save_pretrained(tmp_path / "sharded", max_shard_size="40KB")
    shard = sorted((tmp_path / "sharded" / "vae").glob("*-of-*.safetensors"))[1]
    content = shard.read_bytes()
    shard.write_bytes(content[: len(content) // 2])
    with pytest.raises(NuwaError, match="is damaged or cut short") as error:
        load_pipeline(tmp_path / "sharded")
    assert shard.name in str(error.value)
    shard.unlink()
    with pytest.raises(NuwaError, match=f"{shard.name} is missing"):
        load_pipeline(tmp_path / "sharded")


def test_weights_of_another_size_are_refused(folder: Path) -> None:
    path = folder / "denoiser_global" / "config.json"
    path.write_text(path.read_text().replace('"mask_channels": 4', '"mask_channels": 6'))
    with pytest.raises(NuwaError, match="cannot be loaded"):
        load_pipeline(folder)


def edit_config(folder: Path, name: str, changes: dict) -> None:
    path = folder / name / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


DAMAGES = [
    ("vae/config.json", {"norm_num_groups": 0}, "norm_num_groups is 0; it must be at least 1"),
    ("vae/config.json", {"latent_channels": "4"}, 'latent_channels is "4"'),
    (
        "vae/config.json",
        {"block_out_channels": [], "down_block_types": [], "up_block_types": []},
        r"block_out_channels is \[\]",
    ),
    ("vae/config.json", {"scaling_factor": 0}, "scaling_factor is 0; it must be a number above 0"),
    ("vae/config.json", {"scaling_factor": None}, "scaling_factor is None"),
    ("vae/config.json", {"scaling_factor": float("nan")}, "scaling_factor is nan"),
    ("denoiser_global/config.json", {"unet_config": {"norm_num_groups": 0}}, "norm_num_groups is 0"),
    ("denoiser_global/config.json", {"unet_config": {"attention_head_dim": 0}}, "attention_head_dim is 0"),
    ("denoiser_global/config.json", {"unet_config": {"block_out_channels": [8, 0]}}, r"block_out_channels is \[8, 0\]"),
    ("text_encoder/config.json", {"text_config": {"heads": 0}}, "cannot be loaded"),
    ("scheduler/scheduler_config.json", {"num_train_timesteps": 0}, "num_train_timesteps is 0"),
    ("tokenizer/tokenizer_config.json", {"model_max_length": "x"}, 'model_max_length is "x"'),
    ("model_index.json", {"vae": []}, r"vae is \[\], not a library and a class"),
    ("model_index.json", {"vae": ["a", 3]}, r"vae is \['a', 3\], not a library and a class"),
    ("model_index.json", {"vae": ["diffusers", "AutoencoderKL"]}, "vae is a AutoencoderKL; a TemporalVAE is needed"),
    ("model_index.json", {"window_length": "16"}, "window_length is '16'; it must be a whole number of frames"),
    ("model_index.json", {"window_length": 1}, "window_length is 1; .* at least 3"),
    ("model_index.json", {"window_length": None}, "window_length is None"),
    ("model_index.json", {"train_fps": 0}, "train_fps is 0; it must be a number of frames per second above 0"),
    ("model_index.json", {"train_fps": "8"}, "train_fps is '8'"),
    ("model_index.json", {"height": None}, "height is None; it must be a whole number of pixels"),
    ("model_index.json", {"width": 0}, "width is 0"),
    ("model_index.json", {"width": 17}, "17x16 px do not fit vae"),
]


def merged(old: dict, changes: dict) -> dict:
    """`old` with `changes`, those of inner objects inside them."""
    inner = {key: merged(old[key], value) for key, value in changes.items() if isinstance(value, dict)}
    return old | changes | inner


@pytest.mark.parametrize("read", [load_pipeline, NuwaXLPipeline.from_pretrained])
@pytest.mark.parametrize(("name", "changes", "message"), DAMAGES)
def test_settings_that_mean_nothing_are_named(
    folder: Path, name: str, changes: dict, message: str, read: Callable
) -> None:
    """None gets as far as a network that divides by zero, or a video of it."""
    path = folder / name
    path.write_text(json.dumps(merged(json.loads(path.read_text()), changes)))
    with pytest.raises(NuwaError, match=message) as error:
        read(folder)
    assert str(folder) in str(error.value)
    assert "\n" not in str(error.value)


def test_an_index_of_shards_that_lists_none_is_named(pipe: NuwaXLPipeline, tmp_path: Path) -> None:
    pipe.save_pretrained(tmp_path / "sharded", max_shard_size="40KB")
    index = next((tmp_path / "sharded" / "vae").glob("*.index.json"))
    for content in ({}, {"weight_map": []}, {"weight_map": {"conv_in.weight": 3}}):
        index.write_text(json.dumps(content))
        with pytest.raises(NuwaError, match=f"{index.name} is damaged") as error:
            load_pipeline(tmp_path / "sharded")
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("read", [load_pipeline, NuwaXLPipeline.from_pretrained])
def test_weights_that_the_config_has_no_place_for_are_refused(folder: Path, read: Callable) -> None:
    """A text tower of two layers under a config of one would otherwise load, and speak differently."""
    path = folder / "text_encoder" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    extra = {key.replace("resblocks.0.", "resblocks.1."): value.clone() for key, value in tensors.items()}
    save_file(tensors | extra, path, metadata={"format": "pt"})
    with pytest.raises(
        NuwaError, match=r"text_encoder holds \d+ weights that its config.json has no place for"
    ) as error:
        read(folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("read", [load_pipeline, NuwaXLPipeline.from_pretrained])
def test_weights_that_the_config_asks_for_are_missed(folder: Path, read: Callable) -> None:
    config = json.loads((folder / "text_encoder" / "config.json").read_text())["text_config"] | {"layers": 2}
    edit_config(folder, "text_encoder", {"text_config": config})
    with pytest.raises(NuwaError, match="text_encoder") as error:
        read(folder)
    assert "\n" not in str(error.value)


def test_networks_of_different_widths_are_refused(folder: Path, tmp_path: Path) -> None:
    """Each part is whole, but they were not trained together."""
    other = stack.build(latent_channels=6, text_width=16)
    save_pipeline(other, tmp_path / "other")
    for name, message in [
        ("vae", "denoiser_global takes latents of 4 channels, but vae makes 6"),
        ("text_encoder", "denoiser_global takes prompts of width 8, but text_encoder makes 16"),
    ]:
        mixed = tmp_path / f"mixed_{name}"
        shutil.copytree(folder, mixed)
        shutil.rmtree(mixed / name)
        shutil.copytree(tmp_path / "other" / name, mixed / name)
        for read in (load_pipeline, NuwaXLPipeline.from_pretrained):
            with pytest.raises(NuwaError, match=message) as error:
                read(mixed)
            assert str(error.value).startswith(f"pipeline folder {mixed}: ")
            assert "\n" not in str(error.value)


def test_a_local_denoiser_of_another_width_is_refused() -> None:
    pipe, other = stack.build(), stack.build(latent_channels=6)
    parts = {name: part for name, part in pipe.components.items() if name != "denoiser_local"}
    with pytest.raises(NuwaError, match="denoiser_local takes latents of 6 channels"):
        NuwaXLPipeline(**parts, denoiser_local=other.denoiser_global, window_length=5, height=16, width=16)
    with pytest.raises(NuwaError, match="17x16 px do not fit vae; both sides must be multiples of 2"):
        NuwaXLPipeline(**parts, window_length=5, height=16, width=17)


def test_a_part_that_is_handed_over_need_not_be_stored(pipe: NuwaXLPipeline, folder: Path) -> None:
    """As diffusers has it: from_pretrained(folder, vae=…)."""
    shutil.rmtree(folder / "vae")
    loaded = NuwaXLPipeline.from_pretrained(folder, vae=pipe.vae)
    assert loaded.vae is pipe.vae
    with pytest.raises(NuwaError, match="vae has no config"):
        NuwaXLPipeline.from_pretrained(folder)


@pytest.mark.parametrize("dtype", [None, torch.float16])
def test_others_may_read_what_the_folder_lets_them(
    pipe: NuwaXLPipeline, tmp_path: Path, dtype: torch.dtype | None
) -> None:
    save_pipeline(pipe, tmp_path / "model", dtype)
    (tmp_path / "ordinary").touch()
    expected = (tmp_path / "ordinary").stat().st_mode
    modes = {path.name: path.stat().st_mode for path in (tmp_path / "model").rglob("*") if path.is_file()}
    assert set(modes.values()) == {expected}, modes


def test_half_precision_pipelines_make_the_same_video_but_for_rounding(folder: Path) -> None:
    """`torch_dtype` is the networks'; the walk itself stays float32."""
    loaded = NuwaXLPipeline.from_pretrained(folder, torch_dtype=torch.bfloat16)
    assert loaded.denoiser_global.dtype == torch.bfloat16
    found, expected = video(loaded), video(load_pipeline(folder))
    assert not np.array_equal(found, expected)
    assert np.abs(found - expected).mean() < 0.02


def test_the_folder_is_there_at_every_moment_while_it_is_replaced(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Old and new folder change places in one step of the file system: no rename leaves the name without a folder."""
    rename, there = Path.rename, []

    def watched(path: Path, target: Path) -> Path:
        moved = rename(path, target)
        there.append(folder.is_dir())
        return moved

    monkeypatch.setattr(Path, "rename", watched)
    new = stack.build(seed=1)
    save_pipeline(new, folder)
    assert all(there)
    assert_same_weights(new, load_pipeline(folder))
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def test_without_exchange_a_reader_waits_for_the_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two renames instead: in the gap between them the folder is missing, and loading tries again."""
    gap = folder.parent / "_model.old-1"
    folder.rename(gap)
    naps: list[float] = []

    def wake(seconds: float) -> None:
        naps.append(seconds)
        if len(naps) == 2:
            gap.rename(folder)

    monkeypatch.setattr(pipeline_folder.time, "sleep", wake)
    load_pipeline(folder)
    assert len(naps) == 2
    monkeypatch.setattr(pipeline_folder, "_exchange", lambda one, other: False)
    save_pipeline(stack.build(seed=1), folder)
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def test_a_folder_replaced_while_it_is_read_is_read_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a vae of one training could meet a denoiser of another."""
    old, new = load_pipeline(folder), stack.build(seed=1)
    calls: list[Path] = []
    read = pipeline_folder._read

    def replaced_meanwhile(kind: type[NuwaXLPipeline], path: Path) -> NuwaXLPipeline:
        calls.append(path)
        found = read(kind, path)
        if len(calls) == 1:
            assert_same_weights(found, old)
            save_pipeline(new, folder)
        return found

    monkeypatch.setattr(pipeline_folder, "_read", replaced_meanwhile)
    assert_same_weights(load_pipeline(folder), new)
    assert len(calls) == 2


@pytest.mark.parametrize(
    ("limit_bytes", "dtype"), [(100, None), (20_000, None), (500_000, torch.float64)], ids=["config", "weights", "cast"]
)
def test_a_full_disk_leaves_the_old_folder(folder: Path, limit_bytes: int, dtype: torch.dtype | None) -> None:
    """Whether a configuration finds no room, the weights, or the weights in another precision."""
    before, sizes = weights_fingerprint(folder), [path.stat().st_size for path in folder.rglob("*.safetensors")]
    assert 20_000 < max(sizes) < 500_000 < 2 * max(sizes)
    with pytest.raises(NuwaError, match=r"File too large.*make room") as error, files_up_to(limit_bytes):
        save_pipeline(stack.build(seed=1), folder, dtype=dtype)
    assert "\n" not in str(error.value)
    assert weights_fingerprint(folder) == before
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def test_a_disk_that_is_full_for_the_tokenizer_leaves_the_old_folder(folder: Path) -> None:
    before, large = weights_fingerprint(folder), stack.build(seed=1)
    large.tokenizer.add_tokens([f"word-{number}" for number in range(8000)])
    with pytest.raises(NuwaError, match=r"File too large.*make room") as error, files_up_to(500_000):
        save_pipeline(large, folder)
    assert "\n" not in str(error.value)
    assert weights_fingerprint(folder) == before
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def test_a_place_where_no_folder_can_be_made_is_one_line(pipe: NuwaXLPipeline, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(NuwaError, match="cannot be written"):
        save_pipeline(pipe, tmp_path / "file/in/model")


def test_what_is_no_pipeline_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NuwaError, match="no pipeline folder"):
        load_pipeline(tmp_path / "nothing")
    with pytest.raises(NuwaError, match=r"model_index\.json is missing"):
        load_pipeline(tmp_path)
    (tmp_path / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    with pytest.raises(NuwaError, match="StableDiffusionPipeline"):
        load_pipeline(tmp_path)
