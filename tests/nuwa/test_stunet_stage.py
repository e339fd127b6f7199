"""Training of whole clips: only what inflation added, from any folder, told what is given as generation tells it."""

import dataclasses
from pathlib import Path

import pytest
import torch
import tyro

from nuwa.data.runs import read_runs
from nuwa.generate.masks import in_latents
from nuwa.generate.pipeline_folder import load_pipeline
from nuwa.generate.stunet_pipeline import load_stunet
from nuwa.hierarchy import NuwaError
from nuwa.train.clip_components import starting_clip_pipeline
from nuwa.train.config_checks import resolve
from nuwa.train.known_regions import known_mask, masked, task_shares
from nuwa.train.loop import train
from nuwa.train.stages import video_of
from nuwa.train.stunet_stage import StunetStage
from pipelines.train import Train
from tests.nuwa.clip_training import CPU, LENGTH, NO_TASKS, TASKS, made, make_world, quiet, same, started, tensors_of
from tests.nuwa.tiny_dataset import write_dataset


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("world"))


def stage_of(world: Path, init: str = "tiny", **changes: object) -> StunetStage:
    config = made(world, Path("unused"), init=world / init, **changes)
    return StunetStage(config, started(world, init, "stunet"), read_runs(world / "ds"), CPU)


def inputs_of(stage: StunetStage, draws: range, monkeypatch: pytest.MonkeyPatch) -> tuple[torch.Tensor, ...]:
    """z0, condition, mask, stride and clip numbers that a batch of two clips is trained with."""
    seen: list[tuple[torch.Tensor, ...]] = []
    monkeypatch.setattr(stage.diffusion, "loss", lambda *inputs: seen.append(inputs) or torch.zeros(2))
    stage.losses([stage.data[0], stage.data[9]], draws)
    _, z0, _, _, *known = seen[0]
    return z0, *known


@pytest.mark.parametrize("init", ["tiny", pytest.param("pixels", marks=pytest.mark.slow)])  # slow: three trainings
def test_two_steps_and_two_more_equal_four_whatever_is_shown_on_the_way(world: Path, tmp_path: Path, init: str) -> None:
    changes = {"init": world / init, "inpainting_frac": 0.4}
    train(made(world, tmp_path / "one", **changes), quiet)
    train(made(world, tmp_path / "two", **changes), quiet, until=2)
    with pytest.raises(NuwaError, match="holds another training"):
        train(made(world, tmp_path / "two", **(changes | {"cinemagraph_frac": 0.3})), quiet)
    train(made(world, tmp_path / "two", sample_every=2, **changes), quiet)
    one, two = tensors_of(tmp_path / "one"), tensors_of(tmp_path / "two")
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert same(load_stunet(tmp_path / "one/model").stunet, load_stunet(tmp_path / "two/model").stunet)
    assert [path.name for path in (tmp_path / "two/samples").iterdir()] == ["step-000004.mp4"]


def test_only_what_inflation_added_trains_and_the_rest_is_carried_over(world: Path, tmp_path: Path) -> None:
    train(made(world, tmp_path / "run", steps=2), quiet)
    before, after = load_pipeline(world / "tiny"), load_stunet(tmp_path / "run/model")
    assert same(before.vae, after.vae)
    assert same(before.text_encoder, after.text_encoder)
    assert same(before.denoiser_global.image_unet(), after.stunet.image_unet())
    start = starting_clip_pipeline(made(world, tmp_path / "other"), read_runs(world / "ds")[0]).stunet
    temporal = {name for name, _ in start.named_parameters()} - set(start.image_unet().state_dict())
    assert {name.removeprefix("weights/") for name in tensors_of(tmp_path / "run") if "weights/" in name} == temporal
    moved = [not torch.equal(one, two) for one, two in zip(start.parameters(), after.stunet.parameters(), strict=True)]
    assert any(moved)
    assert after.ssr is None
    assert (after.config.window_length, after.config.train_fps, after.config.height) == (LENGTH, 8.0, 16)
    assert after.scheduler.config.prediction_type == before.scheduler.config.prediction_type


def test_a_folder_of_its_own_kind_goes_on_with_its_length_and_keeps_its_super_resolution(
    world: Path, tmp_path: Path
) -> None:
    train(made(world, tmp_path / "run", init=world / "clips", length=None, steps=1), quiet)
    before, after = load_stunet(world / "clips"), load_stunet(tmp_path / "run/model")
    assert same(before.ssr, after.ssr)
    assert (after.config.window_length, after.config.ssr_length, after.config.ssr_scale) == (8, 4, 2)
    assert (before.config.train_fps, after.config.train_fps) == (4.0, 8.0)
    assert not same(before.stunet, after.stunet)
    assert same(before.stunet.image_unet(), after.stunet.image_unet())


def test_without_init_everything_starts_new(world: Path) -> None:
    pipe = starting_clip_pipeline(made(world, Path("unused"), init=None), read_runs(world / "ds")[0])
    assert pipe.stunet.in_channels == pipe.vae.config.latent_channels == 4
    assert tuple(pipe.stunet.image_config["block_out_channels"]) == (64, 128)
    assert (pipe.config.height, pipe.config.width, pipe.config.train_fps) == (16, 16, 8.0)


def test_clips_have_80_frames_by_default(world: Path) -> None:
    assert made(world, Path("unused"), length=None).length == 80
    assert made(world, Path("unused"), length=None, init=world / "clips").length == 8


def test_losses_are_told_apart_by_noise(world: Path) -> None:
    stage = stage_of(world)
    losses = stage.losses([stage.data[0], stage.data[1], stage.data[2]], range(3))
    tenths = {name: value for name, value in losses.items() if name != "loss"}
    assert {name[:-1] for name in tenths} == {"loss/noise_"}
    assert losses["loss"].item() == pytest.approx(float(torch.cat(list(tenths.values())).mean()), rel=1e-5)


@pytest.mark.parametrize("init", ["tiny", "pixels"])
@pytest.mark.parametrize("task", TASKS)
def test_clips_are_conditioned_as_in_generation(
    world: Path, task: str, init: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Masked video encoded, unknown pixels at zero, and a latent given where all of its pixels are."""
    stage = stage_of(world, init, **(NO_TASKS | {f"{task}_frac": 1.0}))
    z0, condition, mask, stride, numbers = inputs_of(stage, range(4, 6), monkeypatch)
    assert torch.equal(stride, torch.ones(2))
    assert torch.equal(numbers[:, 2], torch.zeros(2))
    for row, (sample, draw) in enumerate(zip((stage.data[0], stage.data[9]), range(4, 6), strict=True)):
        video = video_of([sample], CPU)[0]
        known = masked(video, known_mask(task_shares(stage.config), LENGTH, 16, 16, 0, draw))
        target = video
        if stage.pipe.vae is not None:
            known = in_latents(known, stage.latents.encode, stage.pipe.vae.downsample_factor)
            target = stage.latents.encode(video[None])[0]
        assert 0 < mask[row].mean() < 1
        assert torch.equal(mask[row], known.mask)
        assert torch.equal(condition[row], known.video)
        assert torch.allclose(z0[row], target, atol=1e-2)  # kept as float16


def test_text_to_video_reads_no_condition_and_encodes_none(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage, calls = stage_of(world, **NO_TASKS), []
    encode = stage.latents.encode
    monkeypatch.setattr(stage.latents, "encode", lambda video: calls.append(1) or encode(video))
    _, condition, mask, _, _ = inputs_of(stage, range(2), monkeypatch)
    assert not condition.any()
    assert not mask.any()
    assert len(calls) == 2  # the targets


def test_clip_numbers_are_hidden_each_on_its_own(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = inputs_of(stage_of(world, condition_dropout=1.0), range(2), monkeypatch)[-1]
    assert numbers[:, :2].isnan().all()
    assert torch.equal(numbers[:, 2], torch.zeros(2))
    known = inputs_of(stage_of(world, condition_dropout=0.0), range(2), monkeypatch)[-1]
    assert torch.equal(known[:, 0], torch.full((2,), 8.0))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"length": None}, "no run is long enough for stride 1: 80 frames span 80, the longest of 2 runs has 24"),
        ({"length": 2}, "length is 2|2 frames"),
        ({"levels": "global"}, "levels is global, but stage stunet does nothing with it; .* choose mtd"),
        ({"ssr_scale": 4}, "ssr_scale is 4, but stage stunet does nothing with it; .* choose ssr"),
        ({"latents": Path("somewhere")}, "latents is somewhere, but stage stunet does nothing with it"),
        ({"stage": "mtd", "inpainting_frac": 0.5}, "inpainting_frac is 0.5, but stage mtd does nothing with it"),
        ({"inpainting_frac": 0.8}, r"first_frame_frac \+ .* \+ cinemagraph_frac is 1\.15; as shares"),
        ({"outpainting_frac": -0.1}, "outpainting_frac is -0.1; it must lie between 0 and 1"),
        ({"init": Path("nowhere")}, "there is no pipeline folder nowhere"),
        ({"preset": "base"}, "preset is base, but the pipeline of --init decides that"),
    ],
)
def test_what_the_user_must_change_is_one_line(
    world: Path, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(NuwaError, match=message) as caught:
        train(made(world, tmp_path / "run", **changes), quiet)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_folder_of_another_kind_is_named(world: Path, tmp_path: Path) -> None:
    index = tmp_path / "other/model_index.json"
    index.parent.mkdir()
    index.write_text('{"_class_name": "FluxPipeline"}')
    with pytest.raises(NuwaError, match="is the folder of a FluxPipeline; stage stunet starts from one that"):
        train(made(world, tmp_path / "run", init=index.parent), quiet)
    with pytest.raises(NuwaError, match=r"describes StunetPipeline, not NuwaXLPipeline; give a folder written by"):
        train(made(world, tmp_path / "run", stage="mtd", init=world / "clips"), quiet)
    assert not (tmp_path / "run").exists()


def test_a_run_just_long_enough_is_enough(world: Path, tmp_path: Path) -> None:
    (run,) = read_runs(write_dataset(tmp_path / "ds", [LENGTH]))
    config = made(world, tmp_path / "run")
    pipe = starting_clip_pipeline(config, run)
    assert len(StunetStage(config, pipe, [run], CPU).data) == 1
    with pytest.raises(NuwaError, match=rf"{LENGTH + 1} frames span {LENGTH + 1}, .* \(1 missing\)"):
        StunetStage(dataclasses.replace(config, length=LENGTH + 1), pipe, [run], CPU)


def test_the_commands_of_the_page_parse() -> None:
    page = (Path(__file__).parents[2] / "docs/lumiere.md").read_text("utf-8")
    lines = [line.split() for line in page.splitlines() if line.startswith("python -m pipelines.train")]
    stages = [resolve(tyro.cli(Train, args=words[3:])) for words in lines]
    assert [(config.stage, config.length) for config in stages] == [("stunet", 80), ("ssr", 16)]
    assert stages[1].init == stages[0].output / "model"
