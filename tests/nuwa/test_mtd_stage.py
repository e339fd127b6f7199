"""Training of the denoiser: kinds of mask by share, noise on the condition, checkpointing, variants of injection."""

import itertools
import json
from collections import Counter
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from nuwa.data.runs import read_runs
from nuwa.data.windows import WindowSample
from nuwa.generate.pipeline_folder import load_pipeline, save_pipeline
from nuwa.train import draws
from nuwa.train.components import build_pipeline
from nuwa.train.config import TrainConfig, TrainError
from nuwa.train.config_checks import resolve
from nuwa.train.given_frames import Given, Shares, ends, first_frames, given_frames
from nuwa.train.loop import Progress, Trainer, train
from nuwa.train.mtd_stage import MtdStage
from nuwa.train.run_folder import check_output
from nuwa.train.stages import video_of
from tests.nuwa.small_training import small_training
from tests.nuwa.stack import build
from tests.nuwa.tiny_dataset import write_dataset

CPU = torch.device("cpu")
LENGTH = 4
ONLY = {"global_mask_frac": 0.0, "first_frame_frac": 0.0, "prediction_frac": 0.0, "infilling_frac": 0.0}
KINDS = {"nothing": 0.1, "first_frame": 0.2, "prediction": 0.15, "infilling": 0.25}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    write_dataset(folder / "ds", [24, 20])
    save_pipeline(build(), folder / "tiny")
    return folder


def made(world: Path, output: Path, **changes: object) -> TrainConfig:
    return resolve(small_training(world, output, **({"length": LENGTH} | changes)))


def stage_of(world: Path, **changes: object) -> MtdStage:
    return MtdStage(made(world, Path("unused"), **changes), load_pipeline(world / "tiny"), read_runs(world / "ds"), CPU)


def one_of_each_level(stage: MtdStage) -> list[WindowSample]:
    return [stage.data[0], stage.data[len(stage.data) - 1]]


def quiet(_: Progress) -> None:
    """No output."""


def weights_after(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "checkpoints/step-000004/weights.safetensors")


def masks(level: int, count: int, length: int = 16, **shares: float) -> list[Given]:
    wanted = Shares(**({"nothing": 0.0, "first_frame": 0.0, "prediction": 0.0, "infilling": 0.0} | shares))
    return [given_frames(wanted, level, length, 0, draw) for draw in range(count)]


def test_without_the_new_shares_masks_are_nothing_or_both_ends_as_they_were() -> None:
    emptied = draws.happens(0, "mask", range(500), 0.1)
    assert 30 < sum(emptied) < 75
    assert masks(1, 500, nothing=0.1) == [first_frames(0, 16) if empty else ends(16) for empty in emptied]
    assert set(masks(0, 500, nothing=0.1)) == {first_frames(0, 16)}


@pytest.mark.parametrize("level", [0, 1])
def test_shares_are_kept_at_every_level(level: int) -> None:
    count = 4000
    found = Counter(masks(level, count, **KINDS))
    prefixes = sum(found[first_frames(k, 16)] for k in range(2, 16)) / count
    scattered = sum(n for mask, n in found.items() if sum(mask) and mask not in {ends(16), first_frames(sum(mask), 16)})
    assert prefixes == pytest.approx(KINDS["prediction"] * 14 / 15, abs=0.03)
    assert found[first_frames(1, 16)] / count == pytest.approx(KINDS["first_frame"] + 0.01, abs=0.03)
    assert scattered / count == pytest.approx(KINDS["infilling"], abs=0.03)
    left = 1 - sum(KINDS.values())
    assert found[ends(16)] / count == pytest.approx(left if level else 0, abs=0.03)
    assert found[first_frames(0, 16)] / count == pytest.approx(KINDS["nothing"] + (0 if level else left), abs=0.03)


def test_prediction_gives_any_number_of_first_frames_but_never_all() -> None:
    assert set(masks(0, 400, prediction=1.0)) == {first_frames(k, 16) for k in range(1, 16)}


def test_infilling_gives_any_frames_but_never_none_or_all() -> None:
    found = masks(0, 400, infilling=1.0)
    assert {sum(mask) for mask in found} == set(range(1, 16))
    assert len(set(found)) > 300
    often = torch.tensor(found).float().mean(dim=0)
    assert often.min() > 0.4
    assert often.max() < 0.6


def test_a_mask_depends_on_seed_and_draw_only(world: Path) -> None:
    stage = stage_of(world, infilling_frac=0.8)
    samples = one_of_each_level(stage)
    assert stage._given(samples, range(6, 8))[1] == stage._given(samples[1:], range(7, 8))[0]
    assert masks(0, 50, infilling=1.0) != [
        given_frames(Shares(nothing=0, first_frame=0, prediction=0, infilling=1), 0, 16, 1, draw) for draw in range(50)
    ]


@pytest.mark.parametrize(
    ("share", "known"),
    [("first_frame_frac", (True, False, False, False)), ("prediction_frac", None), ("infilling_frac", None)],
)
def test_condition_and_mask_are_those_of_the_given_frames(
    world: Path, share: str, known: Given | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The condition encodes the window with all other frames zeroed in pixel space, at every level."""
    stage = stage_of(world, **(ONLY | {share: 1.0}))
    samples, seen = one_of_each_level(stage), []
    monkeypatch.setattr(stage.diffusion, "loss", lambda *inputs: seen.append(inputs) or torch.zeros(2))
    stage.losses(samples, range(2))
    _, z0, _, _, condition, mask, _, _ = seen[0]
    given = stage._given(samples, range(2))
    assert known is None or given == [known, known]
    for row, sample in enumerate(samples):
        assert 0 < sum(given[row]) < LENGTH
        assert torch.equal(mask[row, 0], torch.tensor(given[row]).float()[:, None, None].expand_as(mask[row, 0]))
        video = video_of([sample], CPU)
        kept = video * torch.tensor(given[row])[:, None, None]
        with torch.no_grad():
            expected = stage.vae.encode(kept).mode()[0] * stage.vae.config.scaling_factor
            target = stage.vae.encode(video).mode()[0] * stage.vae.config.scaling_factor
        assert torch.allclose(condition[row], expected, atol=1e-2)  # kept as float16
        assert torch.allclose(z0[row], target, atol=1e-2)
        assert not torch.allclose(expected, target, atol=1e-1)


def test_noise_on_the_condition_is_as_strong_as_the_network_is_told(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[torch.Tensor, ...]] = []
    for noise in (0.0, 2.0):
        stage = stage_of(world, condition_noise=noise, condition_dropout=0.0)
        monkeypatch.setattr(stage.diffusion, "loss", lambda *inputs: seen.append(inputs) or torch.zeros(2))
        stage.losses(one_of_each_level(stage), range(2, 4))
    (clean, clean_ids), (noised, ids) = ((inputs[4], inputs[7]) for inputs in seen)
    assert torch.equal(clean_ids[:, 2], torch.zeros(2))
    deviations = (noised - clean).flatten(1).std(dim=1)
    assert (ids[:, 2] > 0).all()
    assert ids[0, 2] != ids[1, 2]
    assert torch.allclose(deviations, ids[:, 2], rtol=0.1)
    assert torch.equal(clean_ids[:, :2].nan_to_num(), ids[:, :2].nan_to_num())


def test_the_amount_of_noise_has_a_null_too(world: Path) -> None:
    stage = stage_of(world, condition_noise=1.0, condition_dropout=1.0)
    assert stage._time_ids(one_of_each_level(stage), [0.3, 0.4], range(2)).isnan().all()


def test_training_with_masks_of_all_kinds_resumes_bitwise(world: Path, tmp_path: Path) -> None:
    shares = {"first_frame_frac": 0.2, "prediction_frac": 0.3, "infilling_frac": 0.3, "condition_noise": 0.5}
    train(made(world, tmp_path / "one", **shares), quiet)
    train(made(world, tmp_path / "two", **shares), quiet, until=2)
    train(made(world, tmp_path / "two", **shares), quiet)
    one, two = weights_after(tmp_path / "one"), weights_after(tmp_path / "two")
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_checkpointing_trains_the_same_weights_and_may_change_in_between(world: Path, tmp_path: Path) -> None:
    train(made(world, tmp_path / "plain"), quiet)
    train(made(world, tmp_path / "saving", gradient_checkpointing=True), quiet, until=2)
    train(made(world, tmp_path / "saving"), quiet)
    plain, saving = weights_after(tmp_path / "plain"), weights_after(tmp_path / "saving")
    assert all(torch.equal(plain[name], saving[name]) for name in plain)
    for saves in (True, False):  # the loop says so to every stage's network
        config = made(world, Path("unused"), gradient_checkpointing=saves)
        stage = stage_of(world, gradient_checkpointing=saves)
        assert not stage.module.is_gradient_checkpointing
        Trainer(config, stage)
        assert stage.module.is_gradient_checkpointing == saves


def test_masks_are_part_of_what_is_learned(world: Path, tmp_path: Path) -> None:
    train(made(world, tmp_path / "run"), quiet, until=1)
    with pytest.raises(TrainError, match=r"infilling_frac 0\.05 → 0\.5"):
        check_output(made(world, tmp_path / "run", infilling_frac=0.5))


def test_a_run_from_before_the_kinds_of_mask_goes_on_with_its_own(world: Path, tmp_path: Path) -> None:
    """Its shares were 0: today's defaults would teach it other masks from the middle of the training on."""
    old = {"first_frame_frac": 0.0, "prediction_frac": 0.0, "infilling_frac": 0.0}
    train(made(world, tmp_path / "run", **old), quiet, until=1)
    path = tmp_path / "run/config.json"
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k not in old}))
    repeated = "--first-frame-frac 0.0 --prediction-frac 0.0 --infilling-frac 0.0"
    with pytest.raises(
        TrainError, match=rf"first_frame_frac 0\.0 → 0\.05; .*repeat its settings: {repeated}$"
    ) as caught:
        train(made(world, tmp_path / "run"), quiet)
    assert "\n" not in str(caught.value)
    train(made(world, tmp_path / "run", **old), quiet)
    assert (tmp_path / "run/checkpoints/step-000004").is_dir()


def test_other_stages_from_before_the_kinds_of_mask_go_on(world: Path, tmp_path: Path) -> None:
    config = made(world, tmp_path / "run", stage="vae")
    train(config, quiet, until=1)
    path = tmp_path / "run/config.json"
    known = json.loads(path.read_text())
    path.write_text(json.dumps({k: v for k, v in known.items() if k not in ONLY}))
    train(config, quiet, until=4)
    assert (tmp_path / "run/checkpoints/step-000004").is_dir()


@pytest.mark.parametrize("injection", ["symmetric", "up_only", "single_scale"])
def test_a_new_denoiser_takes_the_variant_asked_for(world: Path, injection: str) -> None:
    pipe = build_pipeline(made(world, Path("unused"), init=None, injection=injection), read_runs(world / "ds")[0])
    assert pipe.denoiser_global.config.injection == injection


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"first_frame_frac": 1.5}, "first_frame_frac is 1.5; it must lie between 0 and 1"),
        ({"prediction_frac": 0.5, "infilling_frac": 0.5}, r"infilling_frac is 1\.15; .*at most 1"),
        ({"condition_noise": -0.1}, "condition_noise is -0.1"),
    ],
)
def test_shares_that_cannot_be_are_one_line(world: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(TrainError, match=message) as caught:
        made(world, Path("unused"), **changes)
    assert "\n" not in str(caught.value)


def test_what_is_remembered_of_a_window_belongs_to_its_mask(world: Path) -> None:
    stage = stage_of(world)
    sample = one_of_each_level(stage)[1]
    known: list[Given | None] = [None, *itertools.product((False, True), repeat=LENGTH)]
    for _ in range(2):  # the second time from memory, where it is remembered
        for mask in known:
            assert torch.equal(stage._latents(sample, mask), stage._encode(sample, mask).half().float())


def test_without_level_sharing_each_level_has_a_network_of_its_own(world: Path, tmp_path: Path) -> None:
    train(made(world, tmp_path / "global", levels="global", steps=1), quiet)
    first = load_pipeline(tmp_path / "global/model")
    train(made(world, tmp_path / "local", levels="local", steps=1, init=tmp_path / "global/model"), quiet)
    second = load_pipeline(tmp_path / "local/model")
    start = load_pipeline(world / "tiny").denoiser_global.state_dict()
    trained = first.denoiser_at(0).state_dict()
    assert any(not torch.equal(weight, start[name]) for name, weight in trained.items())
    assert all(torch.equal(weight, start[name]) for name, weight in first.denoiser_at(1).state_dict().items())
    assert all(torch.equal(weight, trained[name]) for name, weight in second.denoiser_at(0).state_dict().items())
    changed = second.denoiser_at(1).state_dict()
    assert any(not torch.equal(weight, start[name]) for name, weight in changed.items())
    assert any(not torch.equal(weight, trained[name]) for name, weight in changed.items())


def test_at_factor_0_temporal_layers_stay_and_image_weights_learn(world: Path, tmp_path: Path) -> None:
    before = load_pipeline(world / "tiny").denoiser_global
    train(made(world, tmp_path / "run", temporal_lr_factor=0.0), quiet, until=2)
    after = dict(load_pipeline(tmp_path / "run/model").denoiser_global.named_parameters())
    temporal = {id(weight) for weight in before.temporal_parameters()}
    moved = {id(weight): not torch.equal(weight, after[name]) for name, weight in before.named_parameters()}
    assert {key for key, moves in moved.items() if moves} == moved.keys() - temporal


def test_two_learning_rates_go_on_bitwise(world: Path, tmp_path: Path) -> None:
    whole, halves = (made(world, tmp_path / name, temporal_lr_factor=3.0) for name in ("whole", "halves"))
    train(whole, quiet)
    train(halves, quiet, until=2)
    train(halves, quiet)
    ends = [load_file(each.output / "checkpoints/step-000004/weights.safetensors") for each in (whole, halves)]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
