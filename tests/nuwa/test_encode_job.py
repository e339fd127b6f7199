"""Encoding as a job: it does what is missing, by content, whatever stopped it; and compares what is there."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from nuwa.data import shard_writer
from nuwa.data.encode_plan import LatentSize, ShardTask, shard_tasks, window_starts
from nuwa.data.latents import LatentFolder, Piece, folder_of, read_pieces, write_shard
from nuwa.data.runs import Run, read_runs
from nuwa.data.whole_files import LatentsError
from nuwa.data.windows import WindowDataset
from nuwa.train.encode_job import prepare, run
from nuwa.train.encode_verify import verify
from nuwa.train.loop import train
from tests.nuwa.encoding import HALF, asked, cut_small, encoded_world, ignore, made, same_latents
from tests.nuwa.tiny_dataset import write_dataset


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return encoded_world(tmp_path_factory.getbasetemp())


def times(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*.safetensors")}


def test_the_same_command_again_does_nothing_and_starts_no_ray(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = times(world / "latents")
    monkeypatch.setattr("ray.init", lambda **_: pytest.fail("Ray was started"))
    job = prepare(asked(world, world / "latents", engine="ray"))
    assert (job.windows, job.missing_bytes, job.tasks) == (0, 0, ())
    run(job, ignore)
    assert times(world / "latents") == before


class StoppedError(Exception):
    """As a kill would end it."""


def test_a_job_that_was_stopped_does_what_is_missing(world: Path, tmp_path: Path) -> None:
    """Finished shards stay as they are; what a killed process was writing goes."""
    job, done = cut_small(prepare(asked(world, tmp_path / "latents"))), []

    def stop(written: object) -> None:
        done.append(written)
        if len(done) == 4:
            raise StoppedError

    with pytest.raises(StoppedError):
        run(job, stop)
    folder = folder_of(tmp_path / "latents", job.load.hashes[0])
    finished = times(folder)
    (folder / "_windows-0.safetensors.1").write_bytes(b"half of it")
    again = prepare(asked(world, tmp_path / "latents"))
    assert (job.windows, again.windows) == (7 + 19 + 19 + 1, 2 + 8 + 8 + 1)
    run(again, ignore)
    assert not list(folder.glob("_*"))
    assert finished == {path: stamp for path, stamp in times(folder).items() if path in finished}
    at_once = LatentFolder(world / "latents", job.load.hashes[0])
    assert same_latents(LatentFolder(tmp_path / "latents", job.load.hashes[0]), at_once)


COMMAND = """
import sys
from nuwa.data import encode_plan
encode_plan._LEAST_SHARD_BYTES = 1  # a shard for each window
encode_plan._TASKS = 1000
from pipelines import cli, encode
sys.exit(cli.run(encode.main, encode.Encode))
"""


@pytest.mark.slow  # three processes start, each with torch
def test_killed_twice_and_given_again_it_ends_with_the_same_latents(world: Path, tmp_path: Path) -> None:
    arguments = ["mtd", "--dataset", world / "ds", "--model", world / "tiny", "--output", tmp_path / "latents"]
    command = [sys.executable, "-c", COMMAND, *map(str, arguments), "--length", "4", "--engine", "local"]
    (vae,) = {path.name for path in (world / "latents").glob("vae-*") if "1111" in _masks(path)}
    folder = tmp_path / "latents" / vae
    for shards in (3, 12):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
        deadline = time.monotonic() + 120
        while len(times(folder)) < shards and time.monotonic() < deadline:
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    finished = times(folder)
    assert subprocess.run(command, check=False).returncode == 0
    assert finished == {path: stamp for path, stamp in times(folder).items() if path in finished}
    job = prepare(asked(world, tmp_path / "latents"))
    assert job.tasks == ()
    at_once = LatentFolder(world / "latents", job.load.hashes[0])
    assert same_latents(LatentFolder(tmp_path / "latents", job.load.hashes[0]), at_once)


def _masks(folder: Path) -> set[str]:
    return {piece.mask for path in folder.glob("windows-*") for piece in read_pieces(path)}


def test_another_dataset_with_the_same_files_finds_them(world: Path, tmp_path: Path) -> None:
    """A copy needs nothing, one more run needs that run only, a changed file needs its own windows again."""
    copied = Path(shutil.copytree(world / "ds", tmp_path / "copy"))
    latents = Path(shutil.copytree(world / "latents", tmp_path / "latents"))
    os.utime(copied / "media/runs/run-0.mp4")
    job = prepare(asked(world, latents, dataset=copied))
    assert job.windows == 0
    run(job, ignore)
    train(made(world, tmp_path / "run", dataset=copied, latents=latents, steps=1), ignore)
    longer = write_dataset(tmp_path / "longer", [14, 11, 9])
    for number in (0, 1):
        shutil.copy(world / f"ds/media/runs/run-{number}.mp4", longer / "media/runs")
    assert prepare(asked(world, latents, dataset=longer)).windows == 6 + 6
    (copied / "media/runs/run-1.mp4").write_bytes((copied / "media/runs/run-1.mp4").read_bytes() + b"\0")
    assert prepare(asked(world, latents, dataset=copied)).windows == 2 + 8 + 8


def test_footage_that_has_gone_needs_no_encoding_again(world: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(world / "ds", tmp_path / "copy"))
    shutil.rmtree(copied / "media")
    assert prepare(asked(world, world / "latents", dataset=copied)).tasks == ()


@pytest.mark.parametrize("changes", [{"hop": 3}, {"levels": "local"}, {"depth": 1}, {"condition": "latents"}])
def test_fewer_windows_are_found_among_more(world: Path, changes: dict[str, object]) -> None:
    assert prepare(asked(world, world / "latents", **changes)).tasks == ()


def test_a_level_that_becomes_local_needs_its_conditions_only(world: Path, tmp_path: Path) -> None:
    long = write_dataset(tmp_path / "ds", [30])
    run(prepare(asked(world, tmp_path / "latents", dataset=long)), ignore)
    deeper = prepare(asked(world, tmp_path / "latents", dataset=long, depth=3))
    pieces = [piece for task in deeper.tasks if isinstance(task, ShardTask) for piece in task.pieces]
    assert {(piece.stride, piece.mask, len(piece.firsts)) for piece in pieces} == {(9, "1111", 3), (3, "1001", 21)}


def test_the_size_that_is_printed_is_the_size_on_the_disk(world: Path, tmp_path: Path) -> None:
    job = prepare(asked(world, tmp_path / "latents"))
    run(job, ignore)
    on_disk = sum(path.stat().st_size for path in (tmp_path / "latents").rglob("*.safetensors"))
    assert job.missing_bytes == job.wanted_bytes
    assert job.missing_bytes <= on_disk < job.missing_bytes + 4000  # heads of the files


@pytest.mark.parametrize(("length", "stride", "hop"), [(4, 1, 1), (4, 3, 2), (5, 3, 3), (3, 6, 1), (1, 1, 4)])
def test_windows_are_those_that_training_reads(world: Path, length: int, stride: int, hop: int) -> None:
    runs = read_runs(world / "ds")
    data = WindowDataset(runs, length=length, strides=[stride], hop=hop)
    expected = [(r.run_id, first) for r in runs for first in window_starts(r.num_frames, length, stride, hop)]
    assert expected == [(data.locate(i)[1].run_id, data.locate(i)[2]) for i in range(len(data))]


def test_tasks_hold_every_window_once_and_no_more_than_a_shard() -> None:
    size = LatentSize(channels=4, height=2, width=2)  # 256 bytes a window of 4 frames, 128 a condition
    pieces = [
        Piece(source=source, stride=stride, mask=mask, firsts=tuple(range(0, count, 2)))
        for source, count in (("a", 50), ("b", 7), ("c", 300))
        for stride, mask in ((3, "1111"), (1, "1111"), (1, "1001"))
    ]
    tasks = shard_tasks(pieces, {}, size, shard_bytes=2048)
    found = [(*piece.key, first) for task in tasks for piece in task.pieces for first in piece.firsts]
    assert found == [(*piece.key, first) for piece in pieces for first in piece.firsts]
    sizes = [sum(size.bytes_of(piece) for piece in task.pieces) for task in tasks]
    assert max(sizes) <= 2048
    assert sum(sizes) == sum(size.bytes_of(piece) for piece in pieces)
    assert len({task.name for task in tasks}) == len(tasks)


def test_verify_encodes_a_sample_again(world: Path) -> None:
    found = verify(prepare(asked(world, world / "latents", verify=True, sample=10)))
    assert found.windows == 10
    assert found.largest < HALF
    assert found.files >= 2


def test_verify_tells_other_latents_and_damaged_files(world: Path, tmp_path: Path) -> None:
    latents = Path(shutil.copytree(world / "latents", tmp_path / "latents"))
    job = prepare(asked(world, latents, verify=True, sample=50))
    (path, *_) = LatentFolder(latents, job.load.hashes[0]).shards
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(LatentsError, match=f"{path.name} is damaged .its checksum.*remove that file"):
        verify(job)
    path.unlink()
    with pytest.raises(LatentsError, match=r"lacks \d+ of 46 windows and conditions; give the same command without"):
        verify(prepare(asked(world, latents, verify=True)))
    run(prepare(asked(world, latents)), ignore)
    zeros = {name: np.zeros_like(tensor) for name, tensor in load_file(path).items()}
    write_shard(path, job.load.hashes[0], read_pieces(path), zeros)
    with pytest.raises(LatentsError, match="off what encoding it anew gives; remove the folder") as caught:
        verify(job)
    assert "\n" not in str(caught.value)


def test_verify_tells_prompts_that_are_missing_and_names_damaged_files(world: Path, tmp_path: Path) -> None:
    latents = Path(shutil.copytree(world / "latents", tmp_path / "latents"))
    (path,) = latents.glob("prompts-*/*.safetensors")
    path.write_bytes(b"")
    for damaged in (f", has damaged files: {path.relative_to(latents)}", ""):
        with pytest.raises(LatentsError) as caught:
            verify(prepare(asked(world, latents, verify=True)))
        assert str(caught.value) == f"{latents} lacks 4 of 4 prompts{damaged}; give the same command without --verify"
        path.unlink(missing_ok=True)


def test_frames_of_a_task_are_decoded_once(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[tuple[str, int]] = []
    usual = shard_writer.FrameStore.read

    def counted(store: shard_writer.FrameStore, run: Run, numbers: Sequence[int]) -> np.ndarray:
        read.extend((run.run_id, number) for number in numbers)
        return usual(store, run, numbers)

    monkeypatch.setattr(shard_writer.FrameStore, "read", counted)
    run(prepare(asked(world, tmp_path / "latents")), ignore)
    assert len(read) == len(set(read)) == 14 + 11
