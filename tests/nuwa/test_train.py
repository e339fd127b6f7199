"""The training loop: every stage leaves a complete pipeline, and a resumed training is the same to the last bit."""

import dataclasses
import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from demo.coca import create_model, save_model
from nuwa.data.runs import DataError, read_runs
from nuwa.generate.pipeline_folder import load_pipeline, save_pipeline
from nuwa.hierarchy import NuwaError
from nuwa.train import draws
from nuwa.train.config import TrainConfig, TrainError
from nuwa.train.config_checks import resolve
from nuwa.train.image_vae_stage import ImageVaeStage
from nuwa.train.loop import Progress, lr_factor, train
from nuwa.train.mtd_stage import MtdStage
from nuwa.train.run_folder import finished, steps_in
from pipelines import cli
from pipelines.train import Train, main
from tests.nuwa.small_training import small_training
from tests.nuwa.stack import build
from tests.nuwa.tiny_dataset import write_dataset

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`ds`, a dataset, `coca`, an untrained text encoder, and `tiny`, a random pipeline of windows of 4 frames."""
    folder = tmp_path_factory.mktemp("world")
    write_dataset(folder / "ds", [24, 20])
    save_model(create_model(0), folder / "coca")
    pipe = build()
    pipe.register_to_config(window_length=4)
    save_pipeline(pipe, folder / "tiny")
    return folder


def made(world: Path, output: Path, **changes: object) -> TrainConfig:
    if "init" in changes and changes["init"] is None:
        changes = {"text_encoder": world / "coca"} | changes
    return small_training(world, output, **changes)


def quiet(_: Progress) -> None:
    """No output."""


def weights_of(run: Path) -> dict[str, torch.Tensor]:
    folder = run / "checkpoints" / f"step-{steps_in(run / 'checkpoints')[-1]:06d}"
    return {
        f"{part}/{name}": tensor
        for part in ("weights", "ema", "optimizer")
        for name, tensor in load_file(folder / f"{part}.safetensors").items()
    }


@pytest.mark.parametrize("stage", ["image-vae", "image", "vae", "mtd"])
def test_two_steps_and_two_more_equal_four(world: Path, tmp_path: Path, stage: str) -> None:
    train(made(world, tmp_path / "one", stage=stage), quiet)
    train(made(world, tmp_path / "two", stage=stage), quiet, until=2)
    assert steps_in(tmp_path / "two/checkpoints") == [2]
    train(made(world, tmp_path / "two", stage=stage), quiet)
    one, two = weights_of(tmp_path / "one"), weights_of(tmp_path / "two")
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert load_pipeline(tmp_path / "two/model").config.window_length == 4


def test_model_holds_the_averaged_weights(world: Path, tmp_path: Path) -> None:
    train(made(world, tmp_path / "run"), quiet)
    stored = load_file(tmp_path / "run/model/denoiser_global/diffusion_pytorch_model.safetensors")
    after = weights_of(tmp_path / "run")
    assert all(torch.equal(tensor, after[f"ema/{name}"]) for name, tensor in stored.items())
    assert any(not torch.equal(tensor, after[f"weights/{name}"]) for name, tensor in stored.items())


def test_model_names_the_sizes_it_was_trained_at(world: Path, tmp_path: Path) -> None:
    larger = write_dataset(tmp_path / "ds", [12], size=32)
    train(made(world, tmp_path / "run", stage="image-vae", dataset=larger, steps=1), quiet)
    config = load_pipeline(tmp_path / "run/model").config
    assert (config.height, config.width, config.train_fps) == (32, 32, 8.0)


def test_a_finished_run_does_nothing(world: Path, tmp_path: Path) -> None:
    config = made(world, tmp_path / "run", stage="image-vae", steps=1)
    train(config, quiet)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    assert finished(resolve(config))
    train(config, quiet)
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}


def test_a_damaged_checkpoint_is_passed_over_and_named(
    world: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = made(world, tmp_path / "run", stage="image-vae", steps=3, checkpoint_every=1)
    train(config, quiet, until=2)
    last = tmp_path / "run/checkpoints/step-000002/weights.safetensors"
    last.write_bytes(last.read_bytes()[:1000])
    seen: list[int] = []
    with caplog.at_level(logging.WARNING):
        train(config, lambda progress: seen.append(progress.step))
    assert seen == [2, 3]
    assert "step-000002" in caplog.text
    assert "going on from step 1" in caplog.text


def test_without_init_everything_starts_new_at_the_presets_size(world: Path, tmp_path: Path) -> None:
    train(made(world, tmp_path / "run", stage="image-vae", init=None, steps=1), quiet)
    pipe = load_pipeline(tmp_path / "run/model")
    assert tuple(pipe.vae.config.block_out_channels) == (32, 64, 64)
    assert (pipe.config.height, pipe.config.width, pipe.config.train_fps) == (16, 16, 8.0)
    assert pipe.scheduler.config.prediction_type == "v_prediction"


def test_scaled_latents_have_unit_deviation(world: Path, tmp_path: Path) -> None:
    train(made(world, tmp_path / "run", stage="image-vae", steps=2), quiet)
    pipe = load_pipeline(tmp_path / "run/model")
    stage = ImageVaeStage(made(world, tmp_path / "other", stage="image-vae"), pipe, read_runs(world / "ds"), CPU)
    assert stage.scaling_factor() == pytest.approx(pipe.vae.config.scaling_factor, rel=1e-4)


def test_each_stage_goes_on_from_the_one_before(world: Path, tmp_path: Path) -> None:
    train(made(world, tmp_path / "image", stage="image", steps=1), quiet)
    init = tmp_path / "image/model"
    train(made(world, tmp_path / "local", init=init, levels="local", steps=1), quiet)
    first, second = load_pipeline(init), load_pipeline(tmp_path / "local/model")
    for name, weight in first.vae.state_dict().items():
        assert torch.equal(weight, second.vae.state_dict()[name])
    for name, weight in first.denoiser_global.state_dict().items():
        assert torch.equal(weight, second.denoiser_global.state_dict()[name])
    assert first.denoiser_local is None
    changed = second.denoiser_local.state_dict()
    assert any(not torch.equal(weight, changed[name]) for name, weight in first.denoiser_global.state_dict().items())


def test_image_stages_keep_the_temporal_layers_they_start_from(world: Path, tmp_path: Path) -> None:
    train(made(world, tmp_path / "vae", stage="vae", steps=1), quiet)
    train(made(world, tmp_path / "mtd", init=tmp_path / "vae/model", steps=2), quiet)
    before = load_pipeline(tmp_path / "mtd/model")
    for stage, part in (("image-vae", "vae"), ("image", "denoiser_global")):
        train(made(world, tmp_path / stage, stage=stage, init=tmp_path / "mtd/model", steps=1), quiet)
        old, new = (getattr(pipe, part) for pipe in (before, load_pipeline(tmp_path / stage / "model")))
        temporal = [id(weight) for weight in new.temporal_parameters()]
        for (name, weight), known in zip(new.named_parameters(), old.parameters(), strict=True):
            if id(weight) in temporal:
                assert torch.equal(weight, known), name
        assert not all(torch.equal(a, b) for a, b in zip(new.parameters(), old.parameters(), strict=True))


def test_the_global_level_has_nothing_given_and_local_ones_their_ends(world: Path, tmp_path: Path) -> None:
    train(made(world, tmp_path / "image", stage="image-vae", steps=1), quiet)
    config = resolve(made(world, tmp_path / "mtd", global_mask_frac=0.0))
    stage = MtdStage(config, load_pipeline(tmp_path / "image/model"), read_runs(world / "ds"), CPU)
    assert stage.data.strides == (3, 1)
    samples = [stage.data[0], stage.data[len(stage.data) - 1]]
    assert stage._given(samples, range(2)) == [(False,) * 4, (True, False, False, True)]
    losses = stage.losses(samples, range(2))
    assert {"loss", "loss/level_0", "loss/level_1"} == {name for name in losses if "noise" not in name}
    emptied = MtdStage(dataclasses.replace(config, global_mask_frac=1.0), stage.pipe, stage.data.runs, CPU)
    assert emptied._given(samples, range(2)) == [(False,) * 4] * 2


def test_curves_are_logged(world: Path, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(made(world, tmp_path / "run", steps=2), quiet)
    events = EventAccumulator(str(tmp_path / "run/logs")).Reload()
    wanted = {"train/loss", "train/grad_norm", "train/samples_per_s", "train/loss/level_0", "train/loss/level_1"}
    assert wanted <= set(events.Tags()["scalars"])
    assert [event.step for event in events.Scalars("train/loss")] == [1, 2]


def test_learning_rate_rises_stays_and_falls() -> None:
    factors = [lr_factor(step, steps=100, warmup=10, decay_frac=0.5) for step in range(100)]
    assert factors[0] == pytest.approx(0.1)
    assert set(factors[9:51]) == {1.0}
    assert factors[75] == pytest.approx(0.5)
    assert factors[99] == pytest.approx(0.02)


def test_a_draw_does_not_depend_on_its_batch() -> None:
    together = draws.noise(5, range(4, 8), (2, 3))
    apart = torch.cat([draws.noise(5, range(number, number + 1), (2, 3)) for number in range(4, 8)])
    assert torch.equal(together, apart)
    steps = draws.timesteps(5, range(1000), 1000)
    counts = torch.histc(steps.double(), bins=10, min=0, max=1000)
    assert counts.min() >= 98
    assert counts.max() <= 102


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stage": "films"}, "there is no stage 'films'"),
        ({"depth": 4}, "no run is long enough for stride 27"),
        ({"depth": 1, "levels": "local"}, "no local levels"),
        ({"init": Path("nowhere")}, "nowhere"),
        ({"init": None, "text_encoder": Path("nowhere")}, "text encoder nowhere"),
        ({"batch": 0}, "batch is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"lr": float("nan")}, "lr is nan"),
        ({"prompt_dropout": 1.5}, "prompt_dropout is 1.5; it must lie between 0 and 1"),
        ({"threads": 0}, "threads is 0"),
    ],
)
def test_what_the_user_must_change_is_one_line(
    world: Path, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(NuwaError, match=message) as caught:
        train(made(world, tmp_path / "run", **changes), quiet)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_truncated_init_is_one_line(world: Path, tmp_path: Path) -> None:
    train(made(world, tmp_path / "one", stage="image-vae", steps=1), quiet)
    file = tmp_path / "one/model/vae/diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(NuwaError, match=r"vae/diffusion_pytorch_model\.safetensors"):
        train(made(world, tmp_path / "two", init=tmp_path / "one/model"), quiet)


def test_another_run_or_other_files_in_the_output_stay_untouched(world: Path, tmp_path: Path) -> None:
    train(made(world, tmp_path / "run", stage="image-vae", steps=1), quiet)
    with pytest.raises(TrainError, match="seed 0 → 1"):
        train(made(world, tmp_path / "run", stage="image-vae", seed=1), quiet)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/letter.txt").write_text("dear")
    with pytest.raises(TrainError, match="holds no training run"):
        train(made(world, tmp_path / "mine"), quiet)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["letter.txt"]
    (tmp_path / "other").mkdir()
    for foreign in ("[]", "{}"):
        (tmp_path / "other/config.json").write_text(foreign)
        with pytest.raises(TrainError, match="describes no training run"):
            train(made(world, tmp_path / "other"), quiet)
    with pytest.raises(TrainError, match="cannot be written to"):
        train(made(world, tmp_path / "mine/letter.txt/run"), quiet)


def test_script_answers_with_status_two(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["films", "--dataset", str(tmp_path), "--output", str(tmp_path / "run")]
    assert cli.run(main, Train, arguments) == 2
    assert capsys.readouterr().err.count("\n") == 1
    arguments[0] = "mtd"
    assert cli.run(main, Train, [*arguments, "--engine", "local"]) == 2
    assert "holds no Parquet files" in capsys.readouterr().err


def test_no_dataset_is_named(world: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="none is not a folder"):
        train(made(world, tmp_path / "run", dataset=tmp_path / "none"), quiet)


@pytest.mark.ray
def test_ray_train_runs_the_same_loop(world: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from nuwa.train.ray_trainer import fit

    train(made(world, tmp_path / "here", steps=2), quiet)
    fit(resolve(made(world, tmp_path / "ray", steps=2, engine="ray")))
    here, there = weights_of(tmp_path / "here"), weights_of(tmp_path / "ray")
    assert all(torch.allclose(here[name], there[name], atol=1e-6) for name in here)
    assert "step 2/2" in capfd.readouterr().out
    with pytest.raises(NuwaError, match="no run is long enough"):
        fit(resolve(made(world, tmp_path / "far", depth=4, engine="ray")))
