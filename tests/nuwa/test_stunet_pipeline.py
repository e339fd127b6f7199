"""The folder of a space-time U-Net: complete, bitwise the same after a round trip, one line for whatever is wrong."""

import json
import math
from pathlib import Path

import pytest
import torch

from nuwa.generate.pipeline_folder import load_pipeline, save_pipeline
from nuwa.generate.stunet_pipeline import (
    StunetPipeline,
    load_stunet,
    save_stunet,
    stored_stunet,
    stunet_fingerprint,
)
from nuwa.hierarchy import NuwaError
from nuwa.models.ssr import SuperResolutionUNet
from nuwa.models.stunet import SpaceTimeUNet
from tests.nuwa import clip_stack, stack
from tests.nuwa.clip_training import same

PARTS = ("vae", "stunet", "ssr", "text_encoder")


@pytest.fixture(scope="module")
def pipe() -> StunetPipeline:
    return clip_stack.build(latents=True, ssr=True)


@pytest.fixture
def folder(pipe: StunetPipeline, tmp_path: Path) -> Path:
    save_stunet(pipe, tmp_path / "model")
    return tmp_path / "model"


def parts(pipe: StunetPipeline) -> dict[str, object]:
    """What the constructor takes, of another pipeline."""
    return {name: getattr(pipe, name) for name in (*PARTS, "tokenizer", "scheduler")} | {"height": 16, "width": 16}


def test_a_round_trip_is_bitwise_the_same(pipe: StunetPipeline, folder: Path) -> None:
    for loaded in (load_stunet(folder), StunetPipeline.from_pretrained(folder)):
        assert all(same(getattr(pipe, name), getattr(loaded, name)) for name in PARTS)
        names = ("window_length", "train_fps", "height", "width", "ssr_scale", "ssr_length")
        assert [loaded.config[name] for name in names] == [8, 4.0, 16, 16, 2, 4]
        assert loaded.scheduler.config.rescale_betas_zero_snr
        assert torch.equal(pipe.encode_prompts(["a red star", ""]), loaded.encode_prompts(["a red star", ""]))
    assert not any(weight.requires_grad for weight in load_stunet(folder).stunet.parameters())
    index = json.loads((folder / "model_index.json").read_text())
    assert index["_class_name"] == "StunetPipeline"
    assert index["stunet"] == ["nuwa.models.stunet", "SpaceTimeUNet"]
    assert index["ssr"] == ["nuwa.models.ssr", "SuperResolutionUNet"]


def test_what_a_pipeline_lacks_is_not_stored(tmp_path: Path) -> None:
    pixels = clip_stack.build()
    save_stunet(pixels, tmp_path / "model")
    assert not (tmp_path / "model/vae").exists()
    assert not (tmp_path / "model/ssr").exists()
    loaded = load_stunet(tmp_path / "model")
    assert (loaded.vae, loaded.ssr) == (None, None)
    assert same(loaded.stunet, pixels.stunet)


def test_the_loaded_network_computes_the_same(pipe: StunetPipeline, folder: Path) -> None:
    loaded, generator = load_stunet(folder), torch.Generator().manual_seed(0)
    sample, prompts = torch.randn(1, 4, 5, 8, 8, generator=generator), torch.randn(1, 5, 8, 8, generator=generator)
    with torch.no_grad():
        assert torch.equal(pipe.stunet(sample, 7, prompts), loaded.stunet(sample, 7, prompts))
        assert torch.equal(pipe.ssr(sample, 7, prompts, sample), loaded.ssr(sample, 7, prompts, sample))


def test_half_precision_is_for_the_disk_only(pipe: StunetPipeline, tmp_path: Path) -> None:
    save_stunet(pipe, tmp_path / "half", dtype=torch.float16)
    loaded = load_stunet(tmp_path / "half").stunet
    assert loaded.dtype == torch.float32
    for one, two in zip(loaded.parameters(), pipe.stunet.parameters(), strict=True):
        assert torch.equal(one, two.half().float())


def test_sizes_and_fingerprint_are_known_without_loading(pipe: StunetPipeline, folder: Path) -> None:
    stored = stored_stunet(folder)
    assert (stored.window_length, stored.train_fps, stored.height, stored.width) == (8, 4.0, 16, 16)
    assert stored.weights_sha256 == stunet_fingerprint(folder)
    assert same(load_stunet(folder, weights_sha256=stored.weights_sha256).stunet, pipe.stunet)
    save_stunet(clip_stack.build(latents=True, ssr=True, seed=1), folder)
    with pytest.raises(NuwaError, match="has changed since"):
        load_stunet(folder, weights_sha256=stored.weights_sha256)


def test_folders_that_are_something_else_are_named(folder: Path, tmp_path: Path) -> None:
    save_pipeline(stack.build(), tmp_path / "nuwa")
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters/dear.txt").write_text("dear")
    for read in (load_stunet, stored_stunet, stunet_fingerprint, StunetPipeline.from_pretrained):
        for other, message in (
            (tmp_path / "nuwa", r"describes NuwaXLPipeline, not StunetPipeline; .* \(stage stunet or ssr\)"),
            (tmp_path / "letters", r"letters is no pipeline folder \(model_index.json is missing\)"),
            (tmp_path / "nowhere", "there is no pipeline folder .*nowhere"),
        ):
            with pytest.raises(NuwaError, match=message) as caught:
                read(other)
            assert "\n" not in str(caught.value)
    with pytest.raises(NuwaError, match=r"describes StunetPipeline, not NuwaXLPipeline; .* \(stage image-vae, image"):
        load_pipeline(folder)


def test_a_folder_of_something_else_is_not_written_over(pipe: StunetPipeline, tmp_path: Path) -> None:
    (tmp_path / "dear.txt").write_text("dear")
    with pytest.raises(NuwaError, match="exists and is no pipeline folder"):
        save_stunet(pipe, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["dear.txt"]


@pytest.mark.parametrize("part", ["stunet", "ssr", "vae"])
def test_a_missing_or_truncated_file_is_named(folder: Path, part: str) -> None:
    weights = folder / part / "diffusion_pytorch_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(NuwaError, match=rf"{part}/{weights.name} is damaged or cut short"):
        load_stunet(folder)
    weights.unlink()
    with pytest.raises(NuwaError, match=rf"{part}/{weights.name} is missing"):
        load_stunet(folder)


def test_components_that_do_not_fit_together_are_refused(pipe: StunetPipeline) -> None:
    pixels, unet = clip_stack.build(ssr=True), clip_stack.make_unet(4)
    other = stack.build(text_width=16)
    cases: list[tuple[dict[str, object], str]] = [
        ({"vae": None}, "stunet takes videos of 4 channels, but there is no vae, so that videos have 3"),
        ({"stunet": pixels.stunet}, "stunet takes videos of 3 channels, but vae makes latents of 4"),
        ({"ssr": pixels.ssr}, "ssr takes videos of 3 channels, but vae makes latents of 4"),
        ({"text_encoder": other.text_encoder}, "prompts of width 8, but text_encoder makes 16"),
        ({"stunet": SuperResolutionUNet.from_unet(unet)}, "stunet is a SuperResolutionUNet"),
        ({"ssr": SpaceTimeUNet.from_unet(unet)}, "ssr is a SpaceTimeUNet; a SuperResolutionUNet is needed"),
        ({"stunet": other.denoiser_global}, "stunet is a MaskTemporalUNet; a SpaceTimeUNet is needed"),
        ({"window_length": 2}, "window_length is 2; it must be a whole number of frames, at least 3"),
        ({"train_fps": 0.0}, "train_fps is 0.0"),
        ({"height": 17}, "frames of 16x17 px do not fit vae"),
        ({"ssr_scale": 1}, "ssr_scale is 1; it must be a whole number of times, at least 2"),
        ({"ssr_length": math.nan}, "ssr_length is nan"),
        ({"ssr_noise": 1.5}, "ssr_noise is 1.5; it must be a number from 0 to 1"),
        ({"ssr_noise": "much"}, "ssr_noise is 'much'"),
    ]
    for changes, message in cases:
        with pytest.raises(NuwaError, match=message) as caught:
            StunetPipeline(**(parts(pipe) | changes))
        assert "\n" not in str(caught.value)
