"""The loop: a batch in parts, activation checkpointing, fp32 sums, means by window, samples, the best checkpoint."""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from nuwa.data.runs import read_runs
from nuwa.data.windows import WindowSample
from nuwa.generate.pipeline_folder import load_pipeline, save_pipeline
from nuwa.train import progress, samples
from nuwa.train.checkpoint import best_step
from nuwa.train.config import TrainConfig, TrainError
from nuwa.train.config_checks import resolve
from nuwa.train.loop import STAGE_TYPES, Trainer, train
from nuwa.train.mtd_stage import MtdStage
from nuwa.train.progress import Means, Meter, Progress
from nuwa.train.run_folder import steps_in
from nuwa.train.schedule import lr_factor
from tests.nuwa.small_training import small_training
from tests.nuwa.stack import build
from tests.nuwa.tiny_dataset import write_dataset

pytestmark = pytest.mark.usefixtures("short_walks")
CPU = torch.device("cpu")
STAGES = ("image-vae", "image", "vae", "mtd")
Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`ds`, a dataset, and `tiny`, a random pipeline of windows of 4 frames."""
    folder = tmp_path_factory.mktemp("world")
    write_dataset(folder / "ds", [24, 20])
    pipe = build()
    pipe.register_to_config(window_length=4)
    save_pipeline(pipe, folder / "tiny")
    return folder


@pytest.fixture
def short_walks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Samples in two steps instead of ten."""
    monkeypatch.setattr(samples, "SAMPLER_STEPS", 2)


def made(world: Path, output: Path, **changes: object) -> TrainConfig:
    return small_training(world, output, **({"steps": 2, "batch": 4, "warmup": 1} | changes))


def trained(config: TrainConfig, until: int | None = None) -> list[Progress]:
    seen: list[Progress] = []
    train(config, seen.append, until=until)
    return seen


def trainer_of(config: TrainConfig) -> Trainer:
    config = resolve(config)
    stage = STAGE_TYPES[config.stage](config, load_pipeline(world_of(config)), read_runs(config.dataset), CPU)
    return Trainer(config, stage)


def world_of(config: TrainConfig) -> Path:
    assert config.init is not None
    return config.init


def weights_of(output: Path, part: str = "weights") -> Tensors:
    step = steps_in(output / "checkpoints")[-1]
    return load_file(output / f"checkpoints/step-{step:06d}/{part}.safetensors")


def equal(some: Tensors, others: Tensors) -> bool:
    return some.keys() == others.keys() and all(torch.equal(some[name], others[name]) for name in some)


def curves_of(output: Path) -> EventAccumulator:
    return EventAccumulator(str(output / "logs")).Reload()


# --- a batch in parts


@pytest.mark.parametrize("stage", STAGES)
def test_a_batch_in_parts_has_the_gradient_of_the_whole(world: Path, tmp_path: Path, stage: str) -> None:
    losses, gradients = [], []
    for parts in (1, 2, 4):
        trainer = trainer_of(made(world, tmp_path, stage=stage, accumulate=parts))
        windows = [trainer.stage.data[index] for index in trainer.order.indices(0)]
        losses.append(trainer._add_gradients(windows, range(4))["loss"].mean().item())
        named = trainer.stage.module.parameters()
        gradients.append(torch.cat([weight.grad.flatten() for weight in named if weight.grad is not None]))
    for loss, gradient in zip(losses[1:], gradients[1:], strict=True):
        assert loss == pytest.approx(losses[0], rel=1e-6)
        assert (gradient - gradients[0]).norm() < 1e-5 * gradients[0].norm()


def test_parts_take_the_windows_and_draws_of_the_whole(world: Path, tmp_path: Path) -> None:
    trainer = trainer_of(made(world, tmp_path / "run", accumulate=2))
    taken: list[tuple[list[int], list[int]]] = []
    losses = trainer.stage.losses

    def recorded(samples: list[WindowSample], draws: range) -> Tensors:
        taken.append(([sample.index for sample in samples], list(draws)))
        return losses(samples, draws)

    trainer.stage.losses = recorded  # type: ignore[method-assign]
    trainer.take_step([trainer.stage.data[index] for index in trainer.order.indices(0)])
    indices = trainer.order.indices(0)
    assert taken == [(indices[:2], [0, 1]), (indices[2:], [2, 3])]


def test_parts_may_change_from_one_start_to_the_next(world: Path, tmp_path: Path) -> None:
    trained(made(world, tmp_path / "run"), until=1)
    assert trained(made(world, tmp_path / "run", accumulate=4, gradient_checkpointing=True))[-1].step == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"accumulate": 3}, r"accumulate is 3, but the 4 rows .* cannot be taken in that many .*--accumulate 2$"),
        ({"accumulate": 4, "workers": 2, "engine": "ray"}, r"accumulate is 4, but the 2 rows .*--accumulate 2$"),
        ({"accumulate": 0}, "accumulate is 0; it must be at least 1"),
        ({"min_snr_gamma": 0.0}, "min_snr_gamma is 0.0; it must be above 0"),
        ({"min_snr_gamma": -5.0}, "min_snr_gamma is -5.0; it must be above 0"),
        ({"min_snr_gamma": float("nan")}, "min_snr_gamma is nan; it must be a finite number"),
        ({"decay": "square"}, "decay is 'square'; choose one of linear, cosine"),
        ({"sample_every": -1}, "sample_every is -1; it must be at least 0"),
    ],
)
def test_settings_that_cannot_be_are_one_line(world: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(TrainError, match=message) as caught:
        resolve(made(world, Path("unused"), **changes))
    assert "\n" not in str(caught.value)


# --- schedule


def test_cosine_decay_is_half_a_wave() -> None:
    def factor(step: int) -> float:
        return lr_factor(step, steps=100, warmup=1, decay_frac=0.5, decay="cosine")

    assert {factor(step) for step in range(51)} == {1.0}
    for step in range(50, 100):
        assert factor(step) == pytest.approx(np.cos(np.pi * (step - 50) / 100) ** 2)
    assert factor(75) == pytest.approx(0.5)
    assert factor(99) < lr_factor(99, 100, 1, 0.5)


def test_the_learning_rate_is_drawn(world: Path, tmp_path: Path) -> None:
    seen = trained(
        made(world, tmp_path / "run", stage="image-vae", steps=4, lr=1e-3, warmup=2, decay_frac=0.5, decay="cosine")
    )
    assert [each.scalars["lr"] for each in seen] == pytest.approx([5e-4, 1e-3, 1e-3, 5e-4])
    assert [event.value for event in curves_of(tmp_path / "run").Scalars("train/lr")] == pytest.approx(
        [5e-4, 1e-3, 1e-3, 5e-4]
    )


# --- means


def test_a_rare_group_counts_by_windows_not_by_steps() -> None:
    means = Means()
    means.add({"loss/noise_9": torch.tensor([8.0]), "loss": torch.tensor(1.0)})
    means.add({"loss/noise_9": torch.tensor([0.0] * 7), "loss": torch.tensor(3.0)})
    means.add({"loss": torch.tensor(2.0)})
    assert means.read() == {"loss/noise_9": 1.0, "loss": 2.0}
    assert means.read() == {}


def test_windows_of_all_workers_count(monkeypatch: pytest.MonkeyPatch) -> None:
    other = {"loss/noise_0": (6.0, 3), "loss/noise_9": (5.0, 1)}
    monkeypatch.setattr(progress, "_of_all_workers", lambda own: [own, other])
    means = Means()
    means.add({"loss/noise_0": torch.tensor([2.0])})
    assert means.read() == {"loss/noise_0": 2.0, "loss/noise_9": 5.0}


def test_every_window_is_in_one_tenth_of_the_noise(world: Path, tmp_path: Path) -> None:
    config = resolve(made(world, tmp_path / "run", batch=20))
    stage = MtdStage(config, load_pipeline(world / "tiny"), read_runs(world / "ds"), CPU)
    draws = range(20)
    losses = stage.losses([stage.data[place * len(stage.data) // 20] for place in draws], draws)
    tenths = {name: values for name, values in losses.items() if name.startswith("loss/noise_")}
    counts = torch.histc(stage.diffusion.steps(draws).double(), bins=10, min=0, max=1000).tolist()
    assert {name: len(values) for name, values in tenths.items()} == {
        f"loss/noise_{number}": count for number, count in enumerate(counts) if count
    }
    assert torch.cat(list(tenths.values())).mean().item() == pytest.approx(losses["loss"].item(), rel=1e-6)
    levels = [losses[f"loss/level_{level}"] for level in range(2)]
    assert torch.cat(levels).sort().values.equal(torch.cat(list(tenths.values())).sort().values)


@pytest.mark.parametrize("stage", ["image", "mtd"])
def test_min_snr_weighs_the_loss_and_not_its_parts(world: Path, tmp_path: Path, stage: str) -> None:
    plain, weighted = (trainer_of(made(world, tmp_path, stage=stage, min_snr_gamma=gamma)) for gamma in (None, 5.0))
    windows = [plain.stage.data[index] for index in range(4)]
    one, other = (each.stage.losses(windows, range(4)) for each in (plain, weighted))
    assert other["loss"] < one["loss"]
    assert all(torch.equal(one[name], other[name]) for name in one if name != "loss")


# --- the clock


def test_time_without_data_is_told_and_time_for_checkpoints_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now[0])

    def batches() -> Iterator[list[WindowSample]]:
        for _ in range(4):
            now[0] += 1.0  # decodes
            yield []

    meter = Meter("mtd", steps=4, samples_per_step=8)
    for _ in meter.waiting(batches()):
        now[0] += 3.0  # computes
        meter.add({"loss": torch.tensor(1.0)})
        with meter.paused():
            now[0] += 10.0
    read = meter.read(4).scalars
    assert (read["data_wait_frac"], read["steps_per_s"], read["samples_per_s"]) == (0.25, 0.25, 2.0)


# --- activation checkpointing


@pytest.mark.parametrize("stage", STAGES)
def test_activation_checkpointing_keeps_less_and_changes_no_bit(world: Path, tmp_path: Path, stage: str) -> None:
    kept, gradients = [], []
    for flag in (False, True):
        trainer, sizes = trainer_of(made(world, tmp_path, stage=stage, gradient_checkpointing=flag)), [0]

        def count(tensor: torch.Tensor, sizes: list[int] = sizes) -> torch.Tensor:
            sizes[0] += tensor.nbytes
            return tensor

        trainer.stage.module.train()
        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            losses = trainer.stage.losses([trainer.stage.data[0]], range(1))
        trainer.learner.add(losses["loss"])
        named = dict(trainer.stage.module.named_parameters())
        kept.append(sizes[0])
        gradients.append({name: weight.grad for name, weight in named.items() if weight.grad is not None})
    assert kept[1] < 0.7 * kept[0]
    assert equal(*gradients)


# --- bf16


@pytest.mark.parametrize("stage", STAGES)
def test_under_bf16_weights_gradients_and_losses_are_fp32(world: Path, tmp_path: Path, stage: str) -> None:
    trainer = trainer_of(made(world, tmp_path, stage=stage, precision="bf16"))
    seen: list[torch.dtype] = []
    for module in trainer.stage.module.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(lambda _m, _i, out: seen.append(out.dtype))
    losses = trainer._add_gradients([trainer.stage.data[0]], range(1))
    assert torch.bfloat16 in seen
    assert {value.dtype for value in losses.values()} == {torch.float32}
    weights = [weight for weight in trainer.stage.module.parameters() if weight.grad is not None]
    assert {weight.dtype for weight in weights} | {weight.grad.dtype for weight in weights} == {torch.float32}
    assert trainer.learner.take_step(1e-3).dtype == torch.float32


# --- samples


@pytest.mark.parametrize("stage", STAGES)
def test_samples_change_no_bit_of_the_training(world: Path, tmp_path: Path, stage: str) -> None:
    plain, showing = (made(world, tmp_path / str(k), stage=stage, sample_every=k) for k in (0, 1))
    for config in (plain, showing):
        torch.manual_seed(0)
        trained(config)
    for part in ("weights", "ema", "optimizer", "rng"):
        assert equal(weights_of(plain.output, part), weights_of(showing.output, part))
    suffix = "mp4" if stage in ("vae", "mtd") else "png"
    assert not (plain.output / "samples").exists()
    assert sorted(path.name for path in (showing.output / "samples").iterdir()) == [
        f"step-{step:06d}.{suffix}" for step in (1, 2)
    ]
    names = set(curves_of(showing.output).Tags()["scalars"])
    figures = {name.removeprefix("sample/") for name in names if name.startswith("sample/")}
    assert (
        figures
        >= {
            "image-vae": {"psnr", "sharpness_ratio"},
            "image": {"gradient_energy"},
            "vae": {"psnr", "sharpness_ratio", "flicker", "motion"},
            "mtd": {"flicker", "motion", "gradient_energy"},
        }[stage]
    )


def test_a_sample_is_by_the_averaged_weights_in_eval_mode(world: Path, tmp_path: Path) -> None:
    trainer = trainer_of(made(world, tmp_path / "run", sample_every=1))
    trainer.stage.module.train()
    trainer.take_step([trainer.stage.data[index] for index in trainer.order.indices(0)])
    average = {name: weight.clone() for name, weight in trainer.ema.average.items()}
    live = {name: weight.detach().clone() for name, weight in trainer.stage.module.named_parameters()}
    show, seen = trainer.stage.show, []

    def looked_at() -> object:
        module = trainer.stage.module
        seen.append((module.training, {name: weight.detach().clone() for name, weight in module.named_parameters()}))
        return show()

    trainer.stage.show = looked_at  # type: ignore[method-assign]
    trainer._sample(None)
    ((training, shown),) = seen
    assert not training
    assert equal(shown, average)
    assert trainer.stage.module.training
    assert equal(dict(trainer.stage.module.named_parameters()), live)


def test_pictures_lie_side_by_side(world: Path, tmp_path: Path) -> None:
    trained(made(world, tmp_path / "run", stage="image-vae", steps=1, sample_every=1))
    sheet = np.asarray(Image.open(tmp_path / "run/samples/step-000001.png"))
    assert sheet.shape == (2 * 16, 8 * 16, 3)


def test_the_sample_of_a_seed_is_the_same_each_time(world: Path, tmp_path: Path) -> None:
    config = made(world, tmp_path / "run")
    stage = trainer_of(config).stage
    one, other = (stage.show() for _ in range(2))
    assert np.array_equal(one.frames, other.frames)
    assert len(one.frames) == 3 * 3 + 1  # a global window, three below it
    stage.data.runs = [dataclasses.replace(run, prompts=("one scene",)) for run in stage.data.runs]
    assert stage.show().figures["seam_ratio"] > 0


def test_a_stage_that_cannot_show_anything_says_so_before_it_starts(world: Path, tmp_path: Path) -> None:
    pipe = load_pipeline(world / "tiny")
    pipe.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config, prediction_type="sample")
    save_pipeline(pipe, tmp_path / "odd")
    with pytest.raises(TrainError, match=r"^sample_every is 5, but prediction_type 'sample' cannot be sampled"):
        trained(made(world, tmp_path / "run", init=tmp_path / "odd", sample_every=5))
    assert not (tmp_path / "run").exists()


# --- the best checkpoint


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[float]], None]:
    """Makes the loss of each step what a list says; gradients stay."""

    def follow(values: list[float]) -> None:
        add = Trainer._add_gradients

        def told(self: Trainer, samples: list[WindowSample], draws: range) -> Tensors:
            return add(self, samples, draws) | {"loss": torch.tensor([values[self.step]])}

        monkeypatch.setattr(Trainer, "_add_gradients", told)

    return follow


def test_the_checkpoint_with_the_lowest_loss_before_it_stays(
    world: Path, tmp_path: Path, scripted: Callable[[list[float]], None]
) -> None:
    scripted([9, 9, 9, 1, 2, 3, 4, 4, 4, 0])
    config = made(world, tmp_path / "run", steps=10, checkpoint_every=3, keep_checkpoints=1, keep_best=True)
    trained(config, until=6)
    trained(config)
    # step 6 ends the best three steps; the single step before the end would win by chance
    assert steps_in(tmp_path / "run/checkpoints") == [6, 10]
    assert best_step(tmp_path / "run/checkpoints") == 6
    average = load_file(tmp_path / "run/checkpoints/step-000006/ema.safetensors")
    assert equal(load_file(tmp_path / "run/best/denoiser_global/diffusion_pytorch_model.safetensors"), average)


def test_without_it_no_best_one_is_kept(world: Path, tmp_path: Path) -> None:
    trained(made(world, tmp_path / "run", checkpoint_every=1, keep_checkpoints=1))
    assert steps_in(tmp_path / "run/checkpoints") == [2]
    assert not (tmp_path / "run/best").exists()
