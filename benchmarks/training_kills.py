"""A training in peace and one under kill -9 of its workers and of the command itself, which a careful user gives again:
the weights of both must be the same to the last bit.

python -m benchmarks.training_kills [--kills 10] [--steps 60] [--quick]

Both are `python -m pipelines.train` with two Ray workers of one thread each. Workers that fall are replaced by the
training itself.
"""

import contextlib
import random
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import load_file

from benchmarks.processes import Process, descendants, end_all
from benchmarks.results import REPOSITORY, RESULTS, table, write_section
from curation.video import write_video
from demo import world
from nuwa.hierarchy import NuwaError
from nuwa.train.run_folder import steps_in
from pipelines import cli

PIPELINE = REPOSITORY / "demo" / "weights" / "pipeline"
FPS = 8.0
SIZE_PX = 32
STEP = re.compile(r"step (\d+)/\d+ ")
WORKER = "RayTrainWorker"
LARGEST_DELAY_S = 1.0
LATEST_FRAC = 0.9
"""Share of the steps that are done at the latest kill."""
MOST_STARTS = 60
NAMED_CHARS = 80
"""Most of a command that is named."""


@dataclass(frozen=True, kw_only=True)
class TrainingKills:
    """Train twice, once under kills, and compare what is left."""

    stage: str = "mtd"
    """Stage that is trained."""
    steps: int = 60
    kills: int = 10
    """How many processes fall, workers and commands by a throw of a coin."""
    workers: int = 2
    batch: int = 4
    checkpoint_every: int = 5
    sharding: str = "none"
    """none or fsdp."""
    seed: int = 0
    """Decides when and who."""
    init: Path = PIPELINE
    """Pipeline folder both start from."""
    keep: Path | None = None
    """New folder for runs and logs; by default one that is removed."""
    quick: bool = False
    """Two kills in 20 steps."""
    results: Path = RESULTS
    """File whose section is replaced."""

    def __post_init__(self) -> None:
        if not 0 < self.kills <= self.steps * LATEST_FRAC:
            raise NuwaError(f"kills is {self.kills}; give at least 1 and at most {int(self.steps * LATEST_FRAC)}")


@dataclass
class Trained:
    """One training: who was killed after which step, how often the command was given, how long all took."""

    run: Path
    kills: list[tuple[int, str]] = field(default_factory=list)
    starts: int = 0
    step: int = 0
    left_over: list[str] = field(default_factory=list)
    """Commands of processes that did not end with it."""
    wall_s: float = 0.0
    last_words: str = ""


def toon_dataset(folder: Path, seconds: float = 8.0, count: int = 2) -> Path:
    """A dataset folder of `count` toon episodes, one clip and one run each."""
    clips, runs = [], []
    for seed in range(count):
        episode, name = world.random_episode(seed, FPS, seconds), f"media/runs/run-{seed}.mp4"
        num_frames = write_video(folder / name, world.frames(episode, SIZE_PX, SIZE_PX), FPS)
        clips.append({"clip_id": f"clip-{seed}", "caption": f"toon episode {seed}", "motion_score": 0.1})
        row = {"run_id": f"run-{seed}", "file_name": name, "num_frames": num_frames, "train_fps": FPS}
        size = {"width": SIZE_PX, "height": SIZE_PX}
        runs.append(row | size | {"clip_ids": [f"clip-{seed}"], "first_frame_of_clip": [0]})
    for name, rows in (("clips", clips), ("runs", runs)):
        (folder / name).mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(rows), folder / name / "part-00000.parquet")
    return folder


def train_command(config: TrainingKills, dataset: Path, run: Path) -> list[str]:
    """What a user types. Windows are short, so that a step takes a moment."""
    words = [config.stage, "--dataset", dataset, "--output", run, "--init", config.init, "--steps", config.steps]
    words += ["--batch", config.batch, "--workers", config.workers, "--sharding", config.sharding, "--threads", 1]
    words += ["--checkpoint-every", config.checkpoint_every, "--log-every", 1, "--max-failures", config.kills]
    if config.stage in ("vae", "mtd"):
        words += ["--length", 4, "--depth", 2]
    return [sys.executable, "-m", "pipelines.train", *map(str, words)]


def make(
    command: list[str],
    trained: Trained,
    moments: list[int],
    chance: random.Random,
    say: Callable[[str], None],
    most_starts: int = MOST_STARTS,
) -> Trained:
    """Run `command` to its end, striking soon after so many steps as `moments` say, in their order.

    Raises RuntimeError when it refuses, or does not get through within `most_starts`.
    """
    began, left = time.monotonic(), list(moments)
    seen: set[Process] = set()
    while trained.starts < most_starts:
        trained.starts += 1
        with _job(command, trained) as job:
            while job.poll() is None:
                seen.update(descendants(job.pid))
                if left and trained.step >= left[0]:
                    time.sleep(chance.uniform(0.0, LARGEST_DELAY_S))
                    left.pop(0)
                    if (victim := _strike(job, chance)) is not None:
                        trained.kills.append((trained.step, victim))
                        say(f"{victim} killed after step {trained.step}")
                    trained.step = 0  # steps are told anew from the last checkpoint on
                time.sleep(0.05)
        if job.returncode == 0:
            trained.wall_s = time.monotonic() - began
            trained.left_over = end_all(seen)
            return trained
        if job.returncode != -signal.SIGKILL:
            raise RuntimeError(f"{shlex.join(command)} ended with {job.returncode}: {trained.last_words}")
    raise RuntimeError(f"not finished after {most_starts} starts: {trained.last_words}")


@contextlib.contextmanager
def _job(command: list[str], trained: Trained) -> Iterator["subprocess.Popen[str]"]:
    """The command, while a thread takes note of what it says."""
    job = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    listener = threading.Thread(target=_listen, args=(job.stdout, trained), daemon=True)
    listener.start()
    try:
        yield job
    finally:
        if job.poll() is None:
            job.kill()
        job.wait()
        listener.join(timeout=5.0)


def _listen(stream: IO[str] | None, trained: Trained) -> None:
    assert stream is not None
    for line in stream:
        if line.strip():
            trained.last_words = line.strip()[:300]
        if found := STEP.search(line):
            trained.step = int(found[1])


def _strike(job: "subprocess.Popen[str]", chance: random.Random) -> str | None:
    """kill -9 of a worker or of the command, as a coin falls; of the command where there is no worker.

    Who it was; null when the job was done before.
    """
    workers = sorted((p for p in descendants(job.pid) if WORKER in p.command), key=lambda process: process.pid)
    if workers and chance.random() < 0.5:
        chance.choice(workers).kill()
        return "worker"
    job.kill()
    return "command" if job.wait() == -signal.SIGKILL else None


def differences(calm: Path, disturbed: Path) -> dict[str, int]:
    """What differs between two run folders, in numbers."""
    tensors = [_tensors(run) for run in (calm, disturbed)]
    both = tensors[0].keys() & tensors[1].keys()
    changed = [name for name in both if not torch.equal(tensors[0][name], tensors[1][name])]
    models = [{path.relative_to(run): path for path in (run / "model").rglob("*.*")} for run in (calm, disturbed)]
    shared = models[0].keys() & models[1].keys()
    rewritten = [name for name in shared if models[0][name].read_bytes() != models[1][name].read_bytes()]
    return {
        "tensors of the last checkpoint compared": len(both),
        "tensors that differ or are missing": len(changed) + len(tensors[0].keys() ^ tensors[1].keys()),
        "files of model/ compared": len(shared),
        "files of model/ that differ or are missing": len(rewritten) + len(models[0].keys() ^ models[1].keys()),
    }


def unfinished(run: Path) -> list[str]:
    """Files and folders under temporary names in a run folder."""
    return sorted(str(path.relative_to(run)) for path in run.rglob("_*") if path.name != "__init__.py")


def _tensors(run: Path) -> dict[str, torch.Tensor]:
    """Weights, averages, moments and random state of the newest checkpoint."""
    steps = steps_in(run / "checkpoints")
    folder = run / "checkpoints" / f"step-{steps[-1]:06d}"
    return {f"{path.stem}/{name}": t for path in folder.glob("*.safetensors") for name, t in load_file(path).items()}


def measure(config: TrainingKills, folder: Path, say: Callable[[str], None]) -> list[str]:
    """Both trainings below `folder`, and the lines of the section."""
    dataset, chance = toon_dataset(folder / "dataset"), random.Random(config.seed)
    moments = sorted(chance.sample(range(1, round(config.steps * LATEST_FRAC) + 1), k=config.kills))
    made = []
    for name, strikes in (("calm", []), ("disturbed", moments)):
        say(f"{name}: {config.steps} steps of {config.stage} by {config.workers} workers")
        trained = Trained(folder / name)
        made.append(make(train_command(config, dataset, trained.run), trained, strikes, chance, say))
    return report(config, *made)


def report(config: TrainingKills, calm: Trained, disturbed: Trained) -> list[str]:
    """The lines of the section."""
    rows = [
        [what, str(count) if "compared" in what else f"{count} (0: {'**missed**' if count else 'holds'})"]
        for what, count in differences(calm.run, disturbed.run).items()
    ]
    rows.append(_left_row("unfinished files left behind", unfinished(disturbed.run)))
    rows.append(_left_row("processes left behind", disturbed.left_over))
    kills = ", ".join(f"{victim} after step {step}" for step, victim in disturbed.kills)
    return [
        f"`python -m pipelines.train {config.stage}`, {config.steps} steps of batch {config.batch} by {config.workers} "
        f"workers (sharding {config.sharding}), a checkpoint every {config.checkpoint_every}. Killed by SIGKILL: "
        f"{kills}. The command was given {disturbed.starts} times. In peace it took {calm.wall_s:.0f} s, disturbed "
        f"{disturbed.wall_s:.0f} s, starts of Ray included.",
        "",
        *table(["killed and resumed", ""], rows),
    ]


def _left_row(what: str, names: list[str]) -> list[str]:
    """How many there are, and which."""
    named = ", ".join(f"`{' '.join(name.split())[:NAMED_CHARS]}`" for name in names)
    return [what, f"{len(names)} (0: **missed**): {named}" if names else "0 (0: holds)"]


def main(config: TrainingKills) -> None:
    """Measure, and write the section."""
    command = shlex.join(["python", "-m", "benchmarks.training_kills", *sys.argv[1:]])
    if config.quick:
        config = replace(config, steps=20, kills=2, quick=False)
    with contextlib.ExitStack() as stack:
        folder = config.keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="training-kills-")))
        lines = measure(config, folder, lambda line: print(line, flush=True))
    name = f"training-kills-{config.stage}-{config.sharding}"
    title = f"Training: stage {config.stage}, sharding {config.sharding}, killed {config.kills} times"
    write_section(name, title, command, lines, config.results)


if __name__ == "__main__":
    sys.exit(cli.run(main, TrainingKills))
