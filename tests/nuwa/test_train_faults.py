"""What goes wrong in a training: one line says it, and nothing that was learned is lost."""

import dataclasses
import errno
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from nuwa.data.windows import WindowSample
from nuwa.generate.pipeline_folder import load_pipeline, save_pipeline, weights_fingerprint
from nuwa.hierarchy import NuwaError
from nuwa.train import loop, run_folder
from nuwa.train.checkpoint import load_checkpoint, load_newest, save_checkpoint
from nuwa.train.config import TrainConfig, TrainError
from nuwa.train.config_checks import resolve
from nuwa.train.curves import Curves
from nuwa.train.loop import Trainer, train
from nuwa.train.run_folder import check_output, steps_in, write_config
from nuwa.train.stages import Losses
from nuwa.train.vae_stage import VaeStage
from pipelines import cli
from pipelines.train import Train, main
from tests.nuwa.small_files import files_up_to
from tests.nuwa.tiny_dataset import write_dataset
from tests.nuwa.vae_training import made, scalars_of, stage_of, stored, write_world

INFINITE = float("inf")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_world(tmp_path_factory.mktemp("world"))


def run(config: TrainConfig, until: int | None = None) -> None:
    """Train without a word."""
    train(config, lambda _: None, until=until)


def spoil(monkeypatch: pytest.MonkeyPatch, name: str, step: int, spoilt: str) -> None:
    """The loss `name` of step `step`, counted from 1, or only its gradient, is NaN."""
    losses_of, calls = VaeStage.losses, []

    def losses(self: VaeStage, samples: Sequence[WindowSample], draws: range) -> Losses:
        calls.append(draws)
        found = losses_of(self, samples, draws)
        if len(calls) == step:
            nan = torch.tensor(float("nan"))
            found[name] = found[name] * nan if spoilt == "gradient" else found[name] + nan
        return found

    monkeypatch.setattr(VaeStage, "losses", losses)


@pytest.mark.parametrize(("name", "spoilt"), [("loss", "value"), ("loss", "gradient"), ("discriminator", "gradient")])
def test_a_step_that_is_not_finite_stops_the_training_and_is_not_kept(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, spoilt: str
) -> None:
    spoil(monkeypatch, name, 4, spoilt)
    config = made(world, tmp_path / "run", steps=8, checkpoint_every=1, adversarial_weight=0.5)
    with pytest.raises(TrainError, match=r"^step 4 is not finite \(loss nan, ") as caught:
        run(config)
    message = str(caught.value)
    assert "\n" not in message
    assert f"the last checkpoint, {tmp_path / 'run/checkpoints/step-000003'}, stays" in message
    assert "smaller --lr than 0.0002" in message
    assert steps_in(tmp_path / "run/checkpoints") == [2, 3]
    assert all(tensor.isfinite().all() for tensor in stored(tmp_path / "run").values())
    weights = load_pipeline(tmp_path / "run/model").vae.state_dict()
    assert all(weight.isfinite().all() for weight in weights.values())


def test_the_windows_of_a_step_that_is_not_finite_are_named(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[WindowSample] = []
    losses_of = VaeStage.losses

    def losses(self: VaeStage, samples: Sequence[WindowSample], draws: range) -> Losses:
        seen.extend(samples)
        return {name: value * float("nan") for name, value in losses_of(self, samples, draws).items()}

    monkeypatch.setattr(VaeStage, "losses", losses)
    config = made(world, tmp_path / "run", batch=3)
    with pytest.raises(TrainError, match=r"step 1 is not finite .* no checkpoint is written yet") as caught:
        run(config)
    data = stage_of(config).data
    for sample in seen:
        _, clip_run, first = data.locate(sample.index)
        assert f"{clip_run.run_id} from frame {first}" in str(caught.value)
    assert not (tmp_path / "run/model").exists()


def test_weights_that_overflow_in_the_last_step_are_not_kept(world: Path, tmp_path: Path) -> None:
    """Its loss and gradient are finite: the step itself is too long."""
    config = made(world, tmp_path / "run", lr=3e38, warmup=0, weight_decay=3.0, steps=4)
    with pytest.raises(TrainError, match="is not finite") as caught:
        run(config, until=1)
    assert "step 1 is not finite (weights after it; " in str(caught.value)
    assert not (tmp_path / "run/checkpoints").exists()


def test_a_training_that_is_not_finite_ends_with_status_two(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(monkeypatch, "loss", 1, "value")
    words = ["vae", "--dataset", world / "ds", "--output", tmp_path / "run", "--init", world / "tiny", "--steps", 2]
    assert cli.run(main, Train, [*map(str, words), "--engine", "local"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("name", ["lr", "clip_norm", "weight_decay", "kl_weight", "adversarial_weight"])
@pytest.mark.parametrize("value", [INFINITE, -INFINITE, float("nan")])
def test_numbers_that_are_not_finite_are_refused(world: Path, name: str, value: float) -> None:
    with pytest.raises(TrainError, match=f"^{name} is {value}; it must be a finite number$"):
        resolve(dataclasses.replace(made(world, Path("unused")), **{name: value}))


@pytest.mark.parametrize(
    "name", ["levels", "preset", "condition", "precision", "prediction_type", "injection", "engine", "vae_trains"]
)
def test_a_word_that_is_not_known_is_refused_with_those_that_are(world: Path, name: str) -> None:
    with pytest.raises(TrainError, match=f"^{name} is 'foo'; choose one of [a-z0-9_+]+, [a-z0-9_+, ]+$"):
        resolve(dataclasses.replace(made(world, Path("unused")), **{name: "foo"}))


@pytest.mark.parametrize("limit_bytes", [1000, 20_000], ids=["curves or config", "weights"])
def test_a_full_disk_stops_the_training_in_one_line_and_it_goes_on(
    world: Path, tmp_path: Path, limit_bytes: int
) -> None:
    run(made(world, tmp_path / "one"))
    config = made(world, tmp_path / "run", checkpoint_every=1)
    run(config, until=2)
    before = weights_fingerprint(tmp_path / "run/model")
    with pytest.raises(NuwaError, match="cannot be written") as caught, files_up_to(limit_bytes):
        run(config)
    assert "\n" not in str(caught.value)
    assert weights_fingerprint(tmp_path / "run/model") == before
    assert steps_in(tmp_path / "run/checkpoints") == [1, 2]
    assert not [path for path in (tmp_path / "run").rglob("_*") if path.is_dir()]
    run(config)
    one, two = stored(tmp_path / "one"), stored(tmp_path / "run")
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # of TensorBoard's own thread
def test_curves_without_room_are_one_line(tmp_path: Path) -> None:
    def draw() -> None:
        with Curves(tmp_path / "logs", done=0) as curves:
            for step in range(100):
                curves.add({"loss": 1.0}, step)

    message = r"curves below .*logs cannot be written .*make room"
    with pytest.raises(TrainError, match=message) as caught, files_up_to(300):
        draw()
    assert "\n" not in str(caught.value)


def test_a_new_run_that_finds_no_room_may_start_again(world: Path, tmp_path: Path) -> None:
    config = made(world, tmp_path / "run", steps=1)
    with pytest.raises(TrainError, match="cannot be written"), files_up_to(100):
        run(config)
    run(config)
    assert steps_in(tmp_path / "run/checkpoints") == [1]


def test_leftovers_of_a_killed_run_are_removed(world: Path, tmp_path: Path) -> None:
    config = made(world, tmp_path / "run")
    run(config, until=2)
    names = ("checkpoints/_step-000003.99", "_model.new-99", "_model.old-98", "samples/_step-000002.mp4.a1b2c3")
    for name in names:
        (tmp_path / "run" / name).mkdir(parents=True)
        (tmp_path / "run" / name / "half").write_text("half")
    for name in ("checkpoints/_best.json", "samples/_step-000002.png", "_seen-0123"):
        (tmp_path / "run" / name).write_text("{")
    (tmp_path / "run/_mine").mkdir()
    run(config)
    assert [path.name for path in (tmp_path / "run").rglob("_*")] == ["_mine"]
    assert steps_in(tmp_path / "run/checkpoints") == [2, 4]


def test_a_run_killed_in_its_first_moment_may_start_again(world: Path, tmp_path: Path) -> None:
    """Before it has said whose the folder is; with anything else in it, that is left alone."""
    for name in (".lock", "_config.json", "_seen-0123"):
        (tmp_path / name).write_text("{")
    check_output(made(world, tmp_path))
    (tmp_path / "_config.json.mine").touch()
    with pytest.raises(TrainError, match="not empty and holds no training run"):
        check_output(made(world, tmp_path))


def test_one_process_at_a_time_writes_a_run_folder(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = made(world, tmp_path / "run", checkpoint_every=1)
    run(config, until=1)
    settings = (tmp_path / "run/config.json").read_text()
    monkeypatch.setattr(run_folder, "PATIENCE_S", 0.1)
    with (
        run_folder.only_writer(tmp_path / "run"),
        pytest.raises(TrainError, match=r"another process trains into .*run; wait for its end"),
    ):
        run(dataclasses.replace(config, steps=5))
    assert steps_in(tmp_path / "run/checkpoints") == [1]
    assert (tmp_path / "run/config.json").read_text() == settings
    run(config)
    assert steps_in(tmp_path / "run/checkpoints") == [3, 4]


def test_of_two_first_starts_the_later_one_learns_of_the_other(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other takes the folder while this one still makes its networks, and ends before this one has them."""
    config = resolve(made(world, tmp_path / "run", seed=1))
    build = loop._stage

    def overtaken(*known: object) -> object:
        with run_folder.only_writer(config.output):
            write_config(config)
        return build(*known)

    monkeypatch.setattr(loop, "_stage", overtaken)
    with pytest.raises(TrainError, match=r"holds another training \(seed 1 → 2\)"):
        run(dataclasses.replace(config, seed=2))
    assert json.loads((config.output / "config.json").read_text())["seed"] == 1


def test_a_file_system_without_locks_trains_all_the_same(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(run_folder.fcntl, "flock", refuse)
    run(made(world, tmp_path / "run", steps=1))
    assert steps_in(tmp_path / "run/checkpoints") == [1]


def test_a_model_that_was_moved_aside_stays_until_there_is_another(world: Path, tmp_path: Path) -> None:
    config = made(world, tmp_path / "run")
    run(config, until=2)
    aside = tmp_path / "run/_model.old-99"
    (tmp_path / "run/model").rename(aside)
    with pytest.raises(NuwaError, match="nowhere"):
        run(dataclasses.replace(config, init=Path("nowhere")))
    assert (aside / "model_index.json").is_file()


def test_a_model_that_was_removed_is_written_again(world: Path, tmp_path: Path) -> None:
    config = made(world, tmp_path / "run", keep_best=True, checkpoint_every=2)
    run(config)
    before, state = weights_fingerprint(tmp_path / "run/model"), stored(tmp_path / "run")
    shutil.rmtree(tmp_path / "run/model")
    run(config)
    assert weights_fingerprint(tmp_path / "run/model") == before
    assert all(torch.equal(state[name], tensor) for name, tensor in stored(tmp_path / "run").items())


def test_fewer_steps_than_were_done_are_refused(world: Path, tmp_path: Path) -> None:
    config = made(world, tmp_path / "run", checkpoint_every=1)
    run(config)
    with pytest.raises(TrainError, match=r"is at step 4 already, and steps is 3; give --steps 4 or more"):
        run(dataclasses.replace(config, steps=3))
    assert steps_in(tmp_path / "run/checkpoints") == [3, 4]
    run(dataclasses.replace(config, steps=5))
    assert steps_in(tmp_path / "run/checkpoints") == [4, 5]


@pytest.mark.parametrize("stage", ["image-vae", "image"])
def test_image_stages_keep_the_window_length_of_init(world: Path, tmp_path: Path, stage: str) -> None:
    run(made(world, tmp_path / "run", stage=stage, length=None, steps=1))
    assert load_pipeline(tmp_path / "run/model").config.window_length == 4
    with pytest.raises(TrainError, match=f"length is 16, but stage {stage} keeps the windows of --init, 4 frames long"):
        resolve(made(world, tmp_path / "other", stage=stage, length=16))


@pytest.mark.parametrize("stage", ["vae", "mtd"])
def test_window_stages_take_the_length_asked_for_or_that_of_init(world: Path, tmp_path: Path, stage: str) -> None:
    for asked, expected in ((None, 4), (5, 5)):
        output = tmp_path / str(asked)
        run(made(world, output, stage=stage, length=asked, steps=1))
        assert load_pipeline(output / "model").config.window_length == expected
        assert json.loads((output / "config.json").read_text())["length"] == expected
    assert resolve(made(world, tmp_path / "new", stage=stage, init=None, length=None)).length == 16


@pytest.mark.parametrize("length", [0, 2, -1])
def test_windows_that_have_nothing_to_fill_in_are_refused(world: Path, tmp_path: Path, length: int) -> None:
    with pytest.raises(NuwaError, match=f"a window of {length} frames has nothing to fill in"):
        run(made(world, tmp_path / "run", stage="image-vae", init=None, length=length))


def test_any_number_of_workers_takes_the_same_draws_and_windows(world: Path, tmp_path: Path) -> None:
    config = made(world, tmp_path, batch=6)
    draws: list[list[list[int]]] = []
    windows: list[list[int]] = []
    for workers in (1, 2, 3):
        trainers = [Trainer(config, stage_of(config), rank, workers) for rank in range(workers)]
        draws.append([list(one.order.draws(5, one.rank)) for one in trainers])
        windows.append([index for one in trainers for index in one.order.indices(5, one.rank)])
    assert [[draw for part in parts for draw in part] for parts in draws] == [list(range(30, 36))] * 3
    assert [[len(part) for part in parts] for parts in draws] == [[6], [3, 3], [2, 2, 2]]
    assert windows[0] == windows[1] == windows[2]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch": 4, "workers": 3, "engine": "ray"}, "batch is 4, which 3 workers cannot share equally; .*--batch 6"),
        ({"workers": 2, "batch": 2}, "workers is 2, but engine local is one process"),
    ],
)
def test_workers_that_cannot_share_are_one_line(world: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(TrainError, match=message):
        resolve(made(world, Path("unused"), **changes))


def test_a_run_whose_batch_counted_per_worker_asks_for_the_whole_batch(world: Path, tmp_path: Path) -> None:
    config = made(world, tmp_path / "run", batch=4)
    run(config, until=1)
    path = tmp_path / "run/config.json"
    known = json.loads(path.read_text())
    assert known.pop("format") == 2
    check_output(resolve(dataclasses.replace(config, workers=2, engine="ray")))
    path.write_text(json.dumps(known | {"batch": 2, "workers": 2}))
    with pytest.raises(TrainError, match=r"batch 4 → 2.*repeat its settings: --batch 4"):
        check_output(resolve(dataclasses.replace(config, batch=2, workers=2, engine="ray")))
    check_output(resolve(config))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ray_address": "10.0.0.1:6379"}, "ray_address is .* engine local uses no cluster"),
        ({"stage": "mtd", "levels": "global", "global_mask_frac": 0.2}, "global_mask_frac is 0.2, but levels is glob"),
        ({"decay": "cosine", "decay_frac": 0.0}, "decay is cosine, but decay_frac is 0"),
        ({"keep_best": True, "checkpoint_every": 9}, "keep_best is True, but checkpoint_every is 9"),
        ({"keep_best": True, "adversarial_weight": 0.5, "checkpoint_every": 2}, "keep_best compares losses"),
    ],
)
def test_settings_that_do_nothing_together_are_one_line(world: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(TrainError, match=message):
        resolve(made(world, Path("unused"), **changes))


def test_another_autoencoder_or_a_grown_dataset_is_another_training(world: Path, tmp_path: Path) -> None:
    config = made(world, tmp_path / "run", stage="mtd")
    run(config, until=1)
    pipe = load_pipeline(world / "tiny")
    pipe.vae.register_to_config(scaling_factor=0.5)
    save_pipeline(pipe, tmp_path / "other")
    with pytest.raises(TrainError, match="was begun with another autoencoder; give the --init"):
        run(dataclasses.replace(config, init=tmp_path / "other"))
    write_dataset(tmp_path / "grown", [24, 20, 24])
    with pytest.raises(TrainError, match="was begun with another number of windows; give"):
        run(dataclasses.replace(config, dataset=tmp_path / "grown"))
    path = tmp_path / "run/config.json"
    known = json.loads(path.read_text())
    told = " ".join((Path(__file__).parents[2] / "docs/training.md").read_text("utf-8").split())
    assert all(name in told.split("as `inputs`, ")[1].split(". A folder")[0] for name in known["inputs"])
    del known["inputs"]  # as before they were written down
    path.write_text(json.dumps(known))
    run(dataclasses.replace(config, init=tmp_path / "other"), until=2)
    assert steps_in(tmp_path / "run/checkpoints")[-1] == 2


def test_too_little_memory_of_a_gpu_is_one_line(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def losses(*_: object) -> Losses:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore of it")

    monkeypatch.setattr(VaeStage, "losses", losses)
    with pytest.raises(TrainError, match=r"2\.00 GiB.*give a smaller --batch, more --accumulate or --grad") as caught:
        run(made(world, tmp_path / "run"))
    assert "\n" not in str(caught.value)


def test_a_path_is_compared_by_where_it_leads(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On Ray the run folder holds absolute paths, whatever was typed."""
    config = resolve(made(world, tmp_path / "run", lpips_weights=world / "lpips.safetensors"))
    write_config(config)
    monkeypatch.chdir(world)
    check_output(dataclasses.replace(config, lpips_weights=Path("lpips.safetensors")))
    with pytest.raises(TrainError, match=r"holds another training \(lpips_weights .* → other.safetensors\)"):
        check_output(dataclasses.replace(config, lpips_weights=Path("other.safetensors")))


def test_the_state_of_the_gpu_is_in_the_checkpoint_and_set_again(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a GPU: what torch is asked for and told."""
    state, told = torch.arange(16, dtype=torch.uint8), []
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: state)
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda new, device: told.append((new, device)))
    config = resolve(made(world, tmp_path / "run"))
    trainer = Trainer(config, stage_of(config))
    trainer.device = torch.device("cuda", 1)
    trainer.save()
    trainer.resume()
    ((new, device),) = told
    assert torch.equal(new, state)
    assert device == trainer.device
    trainer.device = torch.device("cpu")
    trainer.resume()
    assert len(told) == 1


def test_random_state_does_not_depend_on_what_came_before(world: Path, tmp_path: Path) -> None:
    states = []
    for name in ("one", "two"):
        run(made(world, tmp_path / name, steps=1))
        states.append(load_checkpoint(tmp_path / name / "checkpoints/step-000001").rng["torch"])
        torch.rand(5)
    assert torch.equal(*states)


def test_a_checkpoint_without_the_state_of_the_gpu_still_loads(world: Path, tmp_path: Path) -> None:
    config = made(world, tmp_path / "run")
    run(config, until=2)
    assert load_checkpoint(tmp_path / "run/checkpoints/step-000002").rng.keys() == {"torch"}
    assert len(scalars_of(config)) == 2


@pytest.mark.gpu
def test_random_numbers_of_the_gpu_go_on(world: Path, tmp_path: Path) -> None:
    config = resolve(made(world, tmp_path / "run"))
    stage = stage_of(config)
    stage.module.to("cuda")
    trainer, root = Trainer(config, stage), tmp_path / "run/checkpoints"
    torch.cuda.manual_seed(5)
    torch.rand(7, device="cuda")
    trainer.save()
    expected = torch.rand(4, device="cuda")
    torch.cuda.manual_seed(9)
    trainer.resume()
    assert torch.equal(torch.rand(4, device="cuda"), expected)
    checkpoint, _ = load_newest(root)
    assert checkpoint is not None
    save_checkpoint(dataclasses.replace(checkpoint, step=1, rng={"torch": checkpoint.rng["torch"]}), root, keep=2)
    trainer.resume()
    assert trainer.step == 1
