"""Trainings by several workers, whole or sharded, are the training by one: within rounding, at the same batch."""

import gc
from pathlib import Path

import pytest
import torch
from diffusers.utils import SAFETENSORS_WEIGHTS_NAME as WEIGHTS
from safetensors.torch import load_file
from torch.distributed.tensor import DTensor

from nuwa.data.runs import read_runs
from nuwa.generate.pipeline_folder import load_pipeline
from nuwa.train import workers
from nuwa.train.config import IMAGE_STAGES, TrainConfig, TrainError
from nuwa.train.config_checks import resolve
from nuwa.train.ema import Ema
from nuwa.train.learner import Learner
from nuwa.train.loop import train
from nuwa.train.run_folder import steps_in
from nuwa.train.sharding import StageWeights
from nuwa.train.shards import collected, local
from nuwa.train.vae_stage import VaeStage
from tests.nuwa.vae_training import CPU, stage_of, stored, write_world
from tests.nuwa.vae_training import made as made_faster
from tests.nuwa.worker_processes import together, train_together

STAGES = [*IMAGE_STAGES, "vae", "mtd"]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_world(tmp_path_factory.mktemp("world"))


def made(world: Path, output: Path, **changes: object) -> TrainConfig:
    """At a rate at which Adam does not turn what is rounding in the smallest gradients into more than 1e-5."""
    return made_faster(world, output, **({"lr": 1e-4} | changes))


def check_close(one: Path, other: Path) -> None:
    """Within 1e-5, and more than that was learned.

    The softmax of attention is blind to the bias of keys: its gradient is rounding, and Adam makes whole steps of it.
    """
    before, after = stored(one), stored(other)
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        atol = 1e-4 if name.endswith("to_k.bias") else 1e-5
        torch.testing.assert_close(
            after[name], tensor, atol=atol, rtol=0, msg=lambda text, name=name: f"{name}: {text}"
        )
    moved = [
        tensor.sub(before[f"weights/{name[4:]}"]).abs().max() for name, tensor in before.items() if name[:4] == "ema/"
    ]
    assert max(moved) > 2e-5  # the average lags behind what was learned


def check_saved(world: Path, run: Path) -> None:
    """The model of a run of stage vae is bit for bit the average in its checkpoint; what is frozen is as it began."""
    weights, before = (load_file(folder / "vae" / WEIGHTS) for folder in (run / "model", world / "tiny"))
    average = {name.removeprefix("ema/"): tensor for name, tensor in stored(run).items() if name.startswith("ema/")}
    assert weights.keys() == before.keys() > average.keys()
    assert all(torch.equal(tensor, average.get(name, before[name])) for name, tensor in weights.items())
    assert not all(torch.equal(tensor, before[name]) for name, tensor in weights.items())


@pytest.mark.parametrize(
    "stage", ["vae", "mtd", *(pytest.param(name, marks=pytest.mark.slow) for name in IMAGE_STAGES)]
)
def test_two_workers_equal_one(world: Path, tmp_path: Path, stage: str) -> None:
    train(made(world, tmp_path / "one", stage=stage, steps=2), lambda _: None)
    train_together(made(world, tmp_path / "two", stage=stage, steps=2), 2, tmp_path)
    check_close(tmp_path / "one", tmp_path / "two")


@pytest.mark.slow  # half a minute each: FSDP2 talks much for networks that are so small
@pytest.mark.parametrize("stage", STAGES)
def test_two_sharded_workers_equal_one(world: Path, tmp_path: Path, stage: str) -> None:
    train(made(world, tmp_path / "one", stage=stage), lambda _: None)
    train_together(made(world, tmp_path / "two", stage=stage, sharding="fsdp"), 2, tmp_path)
    check_close(tmp_path / "one", tmp_path / "two")
    pipes = [load_pipeline(tmp_path / run / "model") for run in ("one", "two")]
    for part in ("vae", "denoiser_global"):
        before, after = (getattr(pipe, part) for pipe in pipes)
        for weight, known in zip(after.parameters(), before.parameters(), strict=True):
            assert torch.allclose(weight, known, atol=1e-4)
    assert pipes[1].vae.config.scaling_factor == pytest.approx(pipes[0].vae.config.scaling_factor, rel=1e-4)


def test_a_training_goes_on_with_another_number_of_workers_sharded_or_not(world: Path, tmp_path: Path) -> None:
    train(made(world, tmp_path / "one", batch=6, steps=3), lambda _: None)
    changing = made(world, tmp_path / "changing", batch=6, steps=3)
    train_together(made(world, tmp_path / "changing", batch=6, steps=3, sharding="fsdp"), 2, tmp_path, until=1)
    check_saved(world, tmp_path / "changing")
    train_together(changing, 3, tmp_path, until=2)
    train(changing, lambda _: None)
    assert steps_in(tmp_path / "changing/checkpoints") == [2, 3]
    check_close(tmp_path / "one", tmp_path / "changing")


@pytest.mark.slow  # as above
@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("sharding", ["none", "fsdp"])
def test_a_run_of_two_workers_goes_on_with_one_or_three(world: Path, tmp_path: Path, stage: str, sharding: str) -> None:
    train(made(world, tmp_path / "one", stage=stage, batch=6), lambda _: None)
    for name, after in (("fewer", 1), ("more", 3)):
        begun = made(world, tmp_path / name, stage=stage, batch=6, sharding=sharding)
        train_together(begun, 2, tmp_path, until=2)
        if after == 1:
            train(made(world, tmp_path / name, stage=stage, batch=6), lambda _: None)
        else:
            train_together(begun, after, tmp_path)
        check_close(tmp_path / "one", tmp_path / name)


@pytest.mark.parametrize("sharding", ["none", pytest.param("fsdp", marks=pytest.mark.slow)])
def test_a_step_and_one_more_by_two_workers_equal_two(world: Path, tmp_path: Path, sharding: str) -> None:
    two, one = (made(world, tmp_path / name, sharding=sharding, steps=2) for name in ("two", "one"))
    train_together(two, 2, tmp_path)
    train_together(one, 2, tmp_path, until=1)
    train_together(one, 2, tmp_path)
    whole, resumed = stored(tmp_path / "two"), stored(tmp_path / "one")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


@pytest.mark.slow  # two more such trainings
def test_workers_sharded_learn_against_a_discriminator_as_one(world: Path, tmp_path: Path) -> None:
    changes = {"adversarial_weight": 0.5, "adversarial_balance": "fixed", "steps": 2}
    train(made(world, tmp_path / "one", **changes), lambda _: None)
    train_together(made(world, tmp_path / "two", sharding="fsdp", **changes), 2, tmp_path)
    check_close(tmp_path / "one", tmp_path / "two")


def live_bytes() -> int:
    """Memory of all tensors that this process holds, counted once where they share it."""
    gc.collect()
    tensors = [local(each.detach()) for each in gc.get_objects() if isinstance(each, torch.Tensor) and not each.is_meta]
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


def check_one_copy_to_save(stage: VaeStage, weights: StageWeights, ema: Ema, *, here: bool) -> None:
    """The first worker holds the whole network once while it saves, in the pipeline itself; the others never do."""
    before, size = live_bytes(), sum(weight.numel() * weight.element_size() for weight in stage.module.parameters())
    with weights.averaged(ema) as first:
        assert first == here
        pipe = stage.pipeline() if first else None
        grown = live_bytes() - before
        assert 0.99 * size < grown < 1.1 * size if first else grown < 0.1 * size
        assert not first or not any(isinstance(weight, DTensor) for weight in stage.module.parameters())
        assert pipe is None or pipe.vae.config.scaling_factor != stage.module.config.scaling_factor
    del pipe
    assert live_bytes() < before + 0.1 * size


def test_each_worker_holds_half_of_weights_moments_and_average_and_sums_in_float32(world: Path, tmp_path: Path) -> None:
    config = resolve(made(world, tmp_path / "run", vae_trains="all"))
    pipe = load_pipeline(world / "tiny")
    total = sum(weight.numel() for weight in pipe.vae.parameters())

    def job(rank: int) -> tuple[int, int, int, set[torch.dtype], int]:
        stage = VaeStage(config, pipe, read_runs(config.dataset), CPU)
        weights = StageWeights(stage, "fsdp")
        learner, ema = Learner(stage.module, weight_decay=0.0, clip_norm=1.0), Ema(stage.module, 0.9)
        with torch.autocast("cpu", torch.bfloat16):
            loss = stage.losses([stage.data[0]], range(1))["loss"]
        learner.add(loss)
        dtypes = {weight.grad.dtype for weight in learner.params if weight.grad is not None}
        learner.take_step(1e-3)
        ema.update()
        moments = {key: tensor for key, tensor in learner.moments().items() if key.startswith("exp_avg/")}
        held = [sum(local(t).numel() for t in part.values()) for part in (learner.weights(), moments, ema.average)]
        assert all(isinstance(weight, DTensor) for weight in stage.module.parameters())
        check_one_copy_to_save(stage, weights, ema, here=rank == 0)
        complete = sum(tensor.numel() for tensor in collected(ema.average).values())
        return (*held, dtypes, complete)

    first, second = together(2, tmp_path, job)
    assert [a + b for a, b in zip(first[:3], second[:3], strict=True)] == [total] * 3
    assert all(0.4 * total < held < 0.6 * total for held in (*first[:3], *second[:3]))
    assert first[3] == second[3] == {torch.float32}
    assert (first[4], second[4]) == (total, 0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"workers": 1}, "sharding is fsdp, but 1 worker has nobody to share with"),
        ({"workers": 2, "compile": True}, "compile and sharding fsdp do not go together"),
        ({"workers": 2, "engine": "local"}, "engine local is one process"),
        ({"workers": 2, "adversarial_weight": 0.5}, "adversarial_balance is adaptive, .*--adversarial-balance fixed"),
    ],
)
def test_sharding_that_cannot_be_is_one_line(world: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(TrainError, match=message):
        resolve(made(world, Path("unused"), **({"engine": "ray", "sharding": "fsdp"} | changes)))


def test_settings_of_workers_may_change_and_those_of_one_process_do_nothing(world: Path, tmp_path: Path) -> None:
    train(made(world, tmp_path / "run"), lambda _: None, until=1)
    shared = resolve(made(world, tmp_path / "run", engine="ray", workers=2, sharding="fsdp", max_failures=0))
    assert shared.max_failures == 0
    with pytest.raises(TrainError, match="max_failures is 0, but engine local has no workers to lose"):
        resolve(made(world, tmp_path / "run", max_failures=0))
    with pytest.raises(TrainError, match="max_failures is -1; it must be at least 0"):
        resolve(made(world, tmp_path / "run", engine="ray", max_failures=-1))


def test_alone_nothing_is_sent(world: Path) -> None:
    assert (workers.count(), workers.number(), workers.first_says("one")) == (1, 0, "one")
    assert stage_of(made(world, Path("unused"))).module is not None
