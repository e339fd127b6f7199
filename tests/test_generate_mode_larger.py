"""Clips in a style, and clips and videos of NUWA-XL made larger."""

import json
from pathlib import Path

import numpy as np
import pytest

from nuwa.generate import large_video, stored_ssr
from nuwa.generate.config import GenerateConfig
from nuwa.generate.multidiffusion import cuts
from nuwa.generate.stored_ssr import Ssr, asked_ssr
from nuwa.generate.stunet_pipeline import load_stunet, save_stunet
from nuwa.generate.style_folder import load_style, stored_style
from nuwa.hierarchy import NuwaError
from tests.clip_commands import StopError, command, pictures
from tests.generated import run
from tests.nuwa import clip_stack
from tests.nuwa.clip_stack import SIZE

LATENTS = pytest.param("latents", marks=pytest.mark.slow)  # the same with an autoencoder, to keep the default run short


def test_a_style_moves_the_clip_and_its_strength_decides_how_far(clip_folder: Path) -> None:
    for name, words in {"plain": "", "none": "--style style --style-strength 0", "full": "--style style"}.items():
        assert run(command(*words.split(), output=name)) == 0
    plain, none, full = (pictures(clip_folder / name).astype(int) for name in ("plain", "none", "full"))
    np.testing.assert_array_equal(none, plain)
    assert np.abs(full - plain).max() > 8
    style = json.loads((clip_folder / "full.json").read_text())["style"]
    assert style["strength"] == 0.75
    assert len(style["weights_sha256"]) == 64


def test_a_style_that_changes_meanwhile_is_not_used(clip_folder: Path) -> None:
    clip_stack.make_unet(3, seed=5).save_pretrained("mine")
    style = stored_style(Path("mine"), 0.5)
    clip_stack.make_unet(3, seed=6).save_pretrained("mine")
    with pytest.raises(NuwaError, match="has changed since this clip was begun"):
        load_style(style)


@pytest.mark.parametrize("model", ["pixels", LATENTS])
def test_super_resolution_makes_clips_larger_in_segments(clip_folder: Path, model: str) -> None:
    words = ["--ssr", model, "--ssr-steps", "1", "--ssr-segment", "5", "--frames", "8"]
    change, scale = ([], 2) if model == "pixels" else (["--upscale", "3", "--ssr-tile-px", "24"], 3)
    assert run(command(*words, *change, model=model)) == 0
    assert pictures(clip_folder / "out").shape == (8, scale * SIZE, scale * SIZE, 3)
    told = json.loads((clip_folder / "out.json").read_text())["super_resolution"]
    assert (told["scale"], told["segment"], told["upsampling"]["steps"]) == (scale, 5, 1)


def test_super_resolution_makes_videos_of_nuwa_xl_larger_and_goes_on_where_it_was_stopped(
    clip_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = "--model nuwa --story story.yaml --steps 1 --ssr pixels --ssr-steps 1 --ssr-segment 5"
    assert run([*words.split(), "--output", "whole"]) == 0
    assert pictures(clip_folder / "whole").shape == (10, 2 * SIZE, 2 * SIZE, 3)
    real, made = large_video.upsample_video, list[int]()

    def stops(*inputs):
        if len(made) == 2:
            raise StopError
        made.append(inputs[6])
        return real(*inputs)

    with monkeypatch.context() as patch:
        patch.setattr(large_video, "upsample_video", stops)
        with pytest.raises(StopError):
            run([*words.split(), "--output", "out"])
    assert made == [place.start for place in cuts(10, 5, 2)][:2]

    def counts(*inputs):
        made.append(inputs[6])
        return real(*inputs)

    monkeypatch.setattr(large_video, "upsample_video", counts)
    assert run([*words.split(), "--output", "out"]) == 0
    assert made == [place.start for place in cuts(10, 5, 2)]
    np.testing.assert_array_equal(pictures(clip_folder / "out"), pictures(clip_folder / "whole"))
    assert not [path for path in clip_folder.iterdir() if path.name.startswith("_")]


def asked(model: str, **changes: float) -> Ssr:
    config = GenerateConfig(model=Path(model), output=Path("out"), ssr=Path(model), **changes)  # type: ignore[arg-type]
    found = asked_ssr(config, 4.0)
    assert found is not None
    return found


def test_noise_reaches_as_far_as_that_of_the_training(clip_folder: Path) -> None:
    pipe = load_stunet("pixels")
    pipe.register_to_config(ssr_noise=0.05)
    save_stunet(pipe, "calm")
    save_stunet(load_stunet("calm"), "again")
    for model in ("calm", "again"):
        assert asked(model).enlarging.upsampling.noise_augmentation == 0.05  # less than the usual 0.1
        assert asked(model, ssr_noise=0.05).enlarging.upsampling.noise_augmentation == 0.05
        with pytest.raises(NuwaError, match=f"--ssr-noise is 0.1, but {model} was trained with noise up to 0.05; give"):
            asked(model, ssr_noise=0.1)


def test_folders_that_do_not_state_the_noise_have_that_of_the_default_training(clip_folder: Path) -> None:
    save_stunet(load_stunet("pixels"), "old")
    index = clip_folder / "old/model_index.json"
    entries = json.loads(index.read_text())
    assert entries.pop("ssr_noise") == 0.5
    index.write_text(json.dumps(entries))
    assert asked("old").enlarging.upsampling.noise_augmentation == 0.1
    assert asked("old", ssr_noise=0.5).enlarging.upsampling.noise_augmentation == 0.5
    with pytest.raises(NuwaError, match=r"--ssr-noise is 0\.51, but old was trained with noise up to 0\.5"):
        asked("old", ssr_noise=0.51)
    assert load_stunet("old").config.ssr_noise == 0.5


def test_sizes_that_the_autoencoder_of_super_resolution_cannot_take_are_refused_first(
    clip_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert [asked(model).unit_px for model in ("pixels", "latents")] == [1, 2]
    ssr = Ssr(Path("ssr"), "", asked("latents").enlarging, unit_px=16)
    ssr.check_size(24, 16)
    with pytest.raises(NuwaError, match=r"frames of 16×20 px become 32×40, .* takes multiples of 16 px; .* 4 for one"):
        ssr.check_size(20, 16)
    monkeypatch.setattr(stored_ssr, "_unit_px", lambda _: 64)
    before = set(clip_folder.rglob("*"))
    for model in ("pixels", "nuwa"):
        assert run(command("--ssr", "latents", model=model)) == 2
        assert "autoencoder of latents takes multiples of 64 px; give another --upscale, 4" in capsys.readouterr().err
    assert set(clip_folder.rglob("*")) == before
