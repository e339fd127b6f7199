"""Training of super-resolution: pairs of windows and their small versions, noised and told by how much."""

from pathlib import Path

import pytest
import torch
from torch.nn import functional

from nuwa.data.runs import read_runs
from nuwa.generate.pipeline_folder import load_pipeline
from nuwa.generate.stunet_pipeline import load_stunet
from nuwa.hierarchy import NuwaError
from nuwa.models.ssr import SuperResolutionUNet
from nuwa.train.loop import train
from nuwa.train.ssr_stage import SsrStage, coarse
from nuwa.train.stages import video_of
from tests.nuwa.clip_training import CPU, made, make_world, quiet, same, started, tensors_of


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("world"))


def stage_of(world: Path, init: str = "tiny", **changes: object) -> SsrStage:
    config = made(world, Path("unused"), stage="ssr", init=world / init, **changes)
    return SsrStage(config, started(world, init, "ssr"), read_runs(world / "ds"), CPU)


def inputs_of(stage: SsrStage, monkeypatch: pytest.MonkeyPatch) -> tuple[torch.Tensor, ...]:
    """z0, condition, mask, stride and clip numbers that a batch of two windows is trained with."""
    seen: list[tuple[torch.Tensor, ...]] = []
    monkeypatch.setattr(stage.diffusion, "loss", lambda *inputs: seen.append(inputs) or torch.zeros(2))
    stage.losses([stage.data[0], stage.data[9]], range(2))
    _, z0, _, _, *known = seen[0]
    return z0, *known


@pytest.mark.parametrize("init", ["tiny", pytest.param("pixels", marks=pytest.mark.slow)])  # slow: three trainings
def test_two_steps_and_two_more_equal_four_whatever_is_shown_on_the_way(world: Path, tmp_path: Path, init: str) -> None:
    train(made(world, tmp_path / "one", stage="ssr", init=world / init), quiet)
    train(made(world, tmp_path / "two", stage="ssr", init=world / init), quiet, until=2)
    train(made(world, tmp_path / "two", stage="ssr", init=world / init, sample_every=2), quiet)
    one, two = tensors_of(tmp_path / "one"), tensors_of(tmp_path / "two")
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert [path.name for path in (tmp_path / "two/samples").iterdir()] == ["step-000004.mp4"]


def test_every_weight_trains_from_those_of_the_image_network(world: Path, tmp_path: Path) -> None:
    image = load_pipeline(world / "tiny").denoiser_global.image_unet()
    assert same(stage_of(world).module.image_unet(), image)
    train(made(world, tmp_path / "run", stage="ssr", steps=1, ema_decay=0.0, ssr_noise=0.25), quiet)
    after = load_stunet(tmp_path / "run/model")
    assert isinstance(after.ssr, SuperResolutionUNet)
    start = stage_of(world).module
    unmoved = {name for name, weight in start.named_parameters() if torch.equal(weight, after.ssr.get_parameter(name))}
    assert not unmoved & set(image.state_dict()) - {"conv_in.bias"}
    assert same(after.stunet.image_unet(), image)
    assert (after.config.ssr_scale, after.config.ssr_length, after.config.ssr_noise) == (2, 6, 0.25)


def test_the_rest_of_a_folder_stays_as_it_was(world: Path, tmp_path: Path) -> None:
    train(made(world, tmp_path / "run", stage="ssr", init=world / "clips", length=None, steps=1), quiet)
    before, after = load_stunet(world / "clips"), load_stunet(tmp_path / "run/model")
    assert same(before.stunet, after.stunet)
    assert same(before.vae, after.vae)
    assert not same(before.ssr, after.ssr)
    names = ("window_length", "train_fps", "height", "width", "ssr_scale", "ssr_length")
    assert [before.config[name] for name in names] == [after.config[name] for name in names]


@pytest.mark.parametrize("init", ["clips", "pixels"])
def test_pairs_are_windows_and_their_small_versions(world: Path, init: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = stage_of(world, init, ssr_noise=0.0)
    z0, condition, mask, stride, numbers = inputs_of(stage, monkeypatch)
    assert mask is None
    assert torch.equal(stride, torch.ones(2))
    assert torch.equal(numbers[:, 2], torch.zeros(2))
    for row, sample in enumerate((stage.data[0], stage.data[9])):
        video = video_of([sample], CPU)
        assert torch.allclose(z0[row], stage.latents.encode(video)[0], atol=1e-2)  # kept as float16
        assert torch.allclose(condition[row], stage.latents.encode(coarse(video, 2))[0], atol=1e-2)
        assert not torch.allclose(z0[row], condition[row], atol=1e-2)


def test_a_small_version_is_means_over_squares_enlarged() -> None:
    video = torch.randn(2, 3, 4, 12, 18, generator=torch.Generator().manual_seed(0))
    small = torch.stack([functional.avg_pool2d(video[:, :, frame], 3) for frame in range(4)], dim=2)
    expected = functional.interpolate(small, (4, 12, 18), mode="trilinear", align_corners=False)
    assert torch.allclose(coarse(video, 3), expected, atol=1e-6)
    flat = torch.full((1, 3, 2, 8, 8), 0.25)
    assert torch.allclose(coarse(flat, 4), flat)


def test_the_small_version_is_noised_by_as_much_as_the_network_is_told(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clean = inputs_of(stage_of(world, ssr_noise=0.0), monkeypatch)[1]
    _, noised, _, _, numbers = inputs_of(stage_of(world, ssr_noise=1.0, condition_dropout=1.0), monkeypatch)
    levels = numbers[:, 2]
    assert numbers[:, :2].isnan().all()
    assert (levels > 0).all()
    assert levels[0] != levels[1]
    for row in range(2):
        eps = (noised[row] - (1 - levels[row] ** 2).sqrt() * clean[row]) / levels[row]
        assert eps.std() == pytest.approx(1.0, abs=0.1)
        assert eps.mean() == pytest.approx(0.0, abs=0.1)


def test_windows_have_16_frames_by_default(world: Path) -> None:
    assert made(world, Path("unused"), stage="ssr", length=None).length == 16
    assert made(world, Path("unused"), stage="ssr", length=None, init=world / "clips").length == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ssr_scale": 3}, "ssr_scale is 3, but runs of 16x16 px do not shrink 3 times to whole pixels"),
        ({"ssr_scale": 1}, "ssr_scale is 1; it must lie between 2 and"),
        ({"ssr_noise": 1.5}, "ssr_noise is 1.5; it must lie between 0 and 1"),
        ({"init": "clips", "ssr_scale": 4}, "the ssr of --init makes sides 2 times as long; give --ssr-scale 2"),
        ({"inpainting_frac": 0.2}, "inpainting_frac is 0.2, but stage ssr does nothing with it"),
        ({"first_frame_frac": 0.2}, "first_frame_frac is 0.2, but stage ssr does nothing with it"),
        ({"length": 25}, "no run is long enough for stride 1: 25 frames span 25, the longest of 2 runs has 24"),
    ],
)
def test_what_the_user_must_change_is_one_line(
    world: Path, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    if "init" in changes:
        changes = changes | {"init": world / str(changes["init"])}
    with pytest.raises(NuwaError, match=message) as caught:
        train(made(world, tmp_path / "run", stage="ssr", **changes), quiet)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()
