"""Everything a user can get wrong with latents: one line that says what differs and what to do, and nothing lost."""

import dataclasses
import errno
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from nuwa.data import whole_files
from nuwa.data.latents import LatentFolder
from nuwa.data.runs import read_runs
from nuwa.generate.pipeline_folder import load_pipeline, save_pipeline
from nuwa.hierarchy import NuwaError
from nuwa.train.encode_job import in_words, prepare, run
from nuwa.train.loop import train
from nuwa.train.mtd_stage import MtdStage
from tests.nuwa.encoding import asked, cut_small, encoded_world, ignore, made, without_footage
from tests.nuwa.tiny_dataset import write_dataset

COMMAND = r"give the settings they were encoded with, or run python -m pipelines\.encode mtd --dataset \S+ --model"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return encoded_world(tmp_path_factory.getbasetemp())


def assert_refused(world: Path, run_folder: Path, message: str, **changes: object) -> str:
    """What a training says that does not begin."""
    changes = {"latents": world / "latents"} | changes
    with pytest.raises(NuwaError, match=message) as caught:
        train(made(world, run_folder, **changes), ignore)
    assert "\n" not in str(caught.value)
    assert not run_folder.exists()
    return str(caught.value)


def assert_begins(world: Path, **changes: object) -> None:
    """A training does."""
    config = made(world, Path("unused"), **changes)
    MtdStage(config, load_pipeline(world / "tiny"), read_runs(config.dataset), torch.device("cpu"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"length": 5}, rf"hold windows of 4 frames, not of 5; {COMMAND}"),
        ({"stage": "vae"}, "latents is .*stage vae does nothing with it; leave it away, or choose image or mtd"),
        ({"init": None}, r"latents is \S+, but there is no init; latents need the --init they were encoded with"),
        ({"latents": Path("nowhere")}, f"latents nowhere are not there; {COMMAND}"),
    ],
)
def test_latents_that_do_not_fit(world: Path, tmp_path: Path, changes: dict[str, object], message: str) -> None:
    assert_refused(world, tmp_path / "run", message, **changes)


def test_another_stride_or_hop(world: Path, tmp_path: Path) -> None:
    latents = tmp_path / "latents"
    long = write_dataset(tmp_path / "ds", [30])
    run(prepare(asked(world, latents, dataset=long, hop=2)), ignore)
    message = f"hold windows at multiples of 2 frames only, and hop is 1; {COMMAND}"
    told = assert_refused(world, tmp_path / "run", message, dataset=long, latents=latents)
    assert told.endswith(f"--output {latents} --hop 1 --length 4 --depth 2 --levels all --condition pixels")
    told = assert_refused(world, tmp_path / "run", message, dataset=long, latents=latents, captions="sampled")
    assert told.endswith(" --captions sampled")
    message = r"hold windows of 4 frames at stride 3, 1, not 9"
    assert_refused(world, tmp_path / "run", message, dataset=long, latents=latents, hop=2, depth=3)
    assert_begins(world, dataset=long, latents=latents, hop=4)


def test_another_autoencoder_names_both(world: Path, tmp_path: Path) -> None:
    pipe = load_pipeline(world / "tiny")
    with torch.no_grad():
        next(pipe.vae.encoder.parameters()).add_(0.01)
    save_pipeline(pipe, tmp_path / "other")
    assert_refused(
        world,
        tmp_path / "run",
        r"are of another autoencoder \(vae-\w+, vae-\w+, not vae-\w+\)",
        init=tmp_path / "other",
    )


def test_a_dataset_that_was_not_encoded(world: Path, tmp_path: Path) -> None:
    other = write_dataset(tmp_path / "ds", [14, 11, 9])
    for number in (0, 1):
        shutil.copy(world / f"ds/media/runs/run-{number}.mp4", other / "media/runs")
    assert_refused(world, tmp_path / "run", "lack 1 of 3 runs, the first is run-2", dataset=other)
    path = other / "media/runs/run-1.mp4"
    path.write_bytes(path.read_bytes() + b"\0")
    assert_refused(
        world, tmp_path / "run", r"run-1\.mp4 has changed since it was encoded; give the command", dataset=other
    )


def test_a_run_file_of_the_same_size_with_other_bytes(world: Path, tmp_path: Path) -> None:
    """A copy with another time of change is fine: its bytes decide."""
    other = Path(shutil.copytree(world / "ds", tmp_path / "ds"))
    path = other / "media/runs/run-1.mp4"
    os.utime(path, ns=(0, 0))
    assert_begins(world, dataset=other, latents=world / "latents")
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert_refused(
        world, tmp_path / "run", r"run-1\.mp4 has changed since it was encoded; give the command", dataset=other
    )


def test_missing_windows_and_damaged_shards(world: Path, tmp_path: Path) -> None:
    """Encoding again makes what is missing, also what was in a shard that is cut short."""
    latents = Path(shutil.copytree(world / "latents", tmp_path / "latents"))
    vae = prepare(asked(world, latents)).load.hashes[0]
    path = LatentFolder(latents, vae).shards[0]
    path.write_bytes(path.read_bytes()[:-100])
    assert_refused(
        world, tmp_path / "run", f"{path.name} is damaged or cut short .*; remove that file and", latents=latents
    )
    path.write_bytes(b"")
    assert_refused(world, tmp_path / "run", f"{path.name} is damaged or cut short", latents=latents)
    path.unlink()
    assert_refused(world, tmp_path / "run", f"hold no windows of this autoencoder; {COMMAND}", latents=latents)
    path.write_bytes(b"")
    job = prepare(asked(world, latents))
    assert job.windows == 46
    run(job, ignore)
    assert_begins(world, latents=latents)


def test_some_missing_windows_are_counted_and_the_first_is_named(world: Path, tmp_path: Path) -> None:
    latents = tmp_path / "latents"
    job = prepare(asked(world, latents))
    parts = [task for task in job.tasks if not hasattr(task, "pieces")]
    for task in job.tasks:
        for piece in getattr(task, "pieces", ()):
            firsts = tuple(first for first in piece.firsts if (piece.stride, piece.mask, first) != (1, "1001", 4))
            parts.append(dataclasses.replace(task, pieces=(dataclasses.replace(piece, firsts=firsts),)))
    run(dataclasses.replace(job, tasks=tuple(parts)), ignore)
    message = "lack 2 conditions, the first at frame 4 of run run-0, stride 1"
    assert_refused(world, tmp_path / "run", message, latents=latents)
    assert_begins(world, latents=latents, condition="latents")


def test_masks_that_need_footage_are_refused_without_it(world: Path, tmp_path: Path) -> None:
    message = (
        r"first_frame_frac and infilling_frac ask for conditions that are not encoded before, and run file \S+run-0.mp4"
        " is not there to encode them from; give --first-frame-frac 0 --infilling-frac 0, or --condition latents, or "
    )
    assert_refused(world, tmp_path / "run", message, dataset=without_footage(world, tmp_path), prediction_frac=0.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stage": "vae"}, "stage is 'vae'; latents are for mtd or image"),
        ({"hop": 0}, "hop is 0; it must be at least 1"),
        ({"stage": "image", "depth": 3}, "depth is 3, but image reads single frames; leave it away"),
        ({"levels": "some"}, "levels is 'some'; choose one of global, local, all"),
        ({"depth": 4}, r"no run is long enough for stride 27: 4 frames span 82"),
        ({"depth": 1, "levels": "local"}, "no local levels"),
        ({"dataset": Path("nowhere")}, "nowhere is not a folder"),
        ({"model": Path("nowhere")}, "no pipeline folder nowhere"),
        ({"where": "num_frames > 999"}, "keeps none of the 2 runs"),
        ({"ray_address": "127.0.0.1:1"}, "engine local uses no Ray"),
        ({"device": "cuda"}, "device cuda: this machine offers no CUDA device; use cpu or auto"),
    ],
)
def test_what_cannot_be_encoded(world: Path, tmp_path: Path, changes: dict[str, object], message: str) -> None:
    if changes.get("device") == "cuda" and torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    with pytest.raises(NuwaError, match=message) as caught:
        run(prepare(asked(world, tmp_path / "latents", **changes)), ignore)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_dataset_without_runs(world: Path, tmp_path: Path) -> None:
    empty = Path(shutil.copytree(world / "ds", tmp_path / "ds"))
    shutil.rmtree(empty / "runs")
    with pytest.raises(NuwaError, match="runs holds no Parquet files"):
        prepare(asked(world, tmp_path / "latents", dataset=empty))


def test_too_little_room_is_told_before_anything_is_written(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = prepare(asked(world, tmp_path / "latents"))
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=job.missing_bytes))
    with pytest.raises(
        NuwaError, match=r"latents need \d+ kB, and the disk of \S+ has \d+ kB left; make room"
    ) as caught:
        run(job, ignore)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "latents").exists()


def test_a_disk_that_fills_up_keeps_what_is_finished(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, written = whole_files.os.fsync, []

    def full(handle: int) -> None:
        written.append(handle)
        if len(written) > 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(handle)

    job = prepare(asked(world, tmp_path / "latents"))
    monkeypatch.setattr(whole_files.os, "fsync", full)
    with pytest.raises(
        NuwaError, match=r"cannot be written \(No space left on device\); what is finished is kept: make"
    ):
        run(job, ignore)
    monkeypatch.undo()
    assert len([path for path in (tmp_path / "latents").rglob("*") if path.is_file()]) == 2
    run(prepare(asked(world, tmp_path / "latents")), ignore)
    assert prepare(asked(world, tmp_path / "latents")).tasks == ()


def test_a_run_file_that_cannot_be_read_stops_no_other(world: Path, tmp_path: Path) -> None:
    broken = write_dataset(tmp_path / "ds", [14, 11])
    (broken / "media/runs/run-0.mp4").write_bytes(b"no video")
    job = prepare(asked(world, tmp_path / "latents", dataset=broken))
    with pytest.raises(NuwaError, match=r"3 of 8 parts are not encoded; the first: run file \S+run-0\.mp4 cannot be"):
        run(cut_small(job), ignore)
    assert prepare(asked(world, tmp_path / "latents", dataset=broken)).windows == 5 + 11 + 11
    (broken / "media/runs/run-0.mp4").unlink()
    with pytest.raises(NuwaError, match=r"2 of 2|run-0\.mp4 cannot be"):
        run(prepare(asked(world, tmp_path / "latents", dataset=broken)), ignore)


def test_a_pipeline_that_changes_meanwhile_is_not_mixed(world: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(world / "tiny", tmp_path / "model"))
    job = prepare(asked(world, tmp_path / "latents", model=model))
    pipe = load_pipeline(model)
    pipe.vae.register_to_config(scaling_factor=0.5)
    save_pipeline(pipe, model)
    with pytest.raises(NuwaError, match="has changed since the start"):
        run(job, ignore)
    assert not list((tmp_path / "latents").rglob("*.safetensors"))


def test_two_jobs_never_write_into_one_folder(world: Path, tmp_path: Path) -> None:
    job = prepare(asked(world, tmp_path / "latents"))

    def second(_: object) -> None:
        with pytest.raises(NuwaError, match="another process is making"):
            run(job, ignore)

    run(job, second)


def test_a_run_encoded_from_two_files_is_told_apart_by_the_footage(world: Path, tmp_path: Path) -> None:
    """As after curating again with another encoder of video: the record knows one run by two hashes."""
    latents = Path(shutil.copytree(world / "latents", tmp_path / "latents"))
    other = Path(shutil.copytree(world / "ds", tmp_path / "other"))
    path = other / "media/runs/run-1.mp4"
    path.write_bytes(path.read_bytes() + b"\0")
    run(prepare(asked(world, latents, dataset=other)), ignore)
    for dataset in (other, world / "ds"):
        assert_begins(world, dataset=dataset, latents=latents)
    message = r"run run-1 was encoded from two different files, and \S+ is not there to tell which"
    changes = {"first_frame_frac": 0.0, "prediction_frac": 0.0, "infilling_frac": 0.0}
    assert_refused(
        world, tmp_path / "run", message, dataset=without_footage(world, tmp_path), latents=latents, **changes
    )


def test_sizes_are_said_as_people_read_them() -> None:
    assert [in_words(number) for number in (0, 999, 21_500_000, 3 * 10**12)] == ["0 B", "999 B", "21.5 MB", "3 TB"]
