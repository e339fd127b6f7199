"""A long video made in peace and made under kill -9: the same command again and again, and not one bit may differ."""

import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

import av
import yaml

from benchmarks.generate_once import prompts_of
from benchmarks.results import REPOSITORY, table

FPS = 8.0
LARGEST_DELAY_S = 0.5
LATEST_FRAC = 0.95
"""Share of all windows that are done at the latest kill."""
COMPARED = ("windows compared", "frames compared")


@dataclass
class Made:
    """One video: what was killed when (windows done), and the time of all starts together."""

    video: Path
    kills: list[int] = field(default_factory=list)
    wall_s: float = 0.0

    @property
    def windows(self) -> Path:
        return self.video.with_name(f"_{self.video.stem}.windows")


def write_story(path: Path, frames: int) -> Path:
    """The story of the other measurements as a file."""
    scenes = [{"prompt": prompt, "seconds": len(list(group)) / FPS} for prompt, group in groupby(prompts_of(frames))]
    path.write_text(yaml.safe_dump({"fps": FPS, "scenes": scenes}), "utf-8")
    return path


def generate_command(settings: "Kills", story: Path, video: Path) -> list[str]:
    """What a user types; finished windows are kept so that they can be compared."""
    words = ["--model", settings.model, "--story", story, "--output", video, "--frames", settings.frames]
    words += ["--steps", settings.steps, "--batch", settings.batch, "--device", settings.device, "--keep-windows"]
    return [sys.executable, "-m", "pipelines.generate", *map(str, words)]


def make(command: list[str], made: Made, moments: list[int], chance: random.Random, say: Callable[[str], None]) -> Made:
    """Run `command` to its end, striking soon after so many windows are done as `moments` say, in their order."""
    began, left = time.monotonic(), list(moments)
    while True:
        job = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        struck = _strike(job, made, left, chance) if left else False
        _, errors = job.communicate()
        if struck:
            say(f"killed after {made.kills[-1]} windows")
        elif job.returncode:
            raise RuntimeError(f"{command} ended with {job.returncode}: {errors.strip()[-600:]}")
        elif not left:
            made.wall_s = time.monotonic() - began
            return made


def _strike(job: "subprocess.Popen[str]", made: Made, left: list[int], chance: random.Random) -> bool:
    """Kill -9 at the next moment; False when the job ends before it."""
    while job.poll() is None:
        if _count(made.windows) >= left[0]:
            time.sleep(chance.uniform(0.0, LARGEST_DELAY_S))
            done = _count(made.windows)
            job.send_signal(signal.SIGKILL)
            left.pop(0)
            if job.wait() != -signal.SIGKILL:
                return False
            made.kills.append(done)
            return True
        time.sleep(0.02)
    left.pop(0)
    return False


def _count(windows: Path) -> int:
    return len(list(windows.glob("[0-9]*.safetensors")))


def differences(calm: Made, disturbed: Made) -> dict[str, int]:
    """What differs, in numbers: windows (latents and pixels), frames of the files, bytes; and files left behind."""
    names = [{path.name for path in made.windows.glob("[0-9]*.safetensors")} for made in (calm, disturbed)]
    both = sorted(names[0] & names[1])
    changed = [name for name in both if (calm.windows / name).read_bytes() != (disturbed.windows / name).read_bytes()]
    frames = [_frames(made.video) for made in (calm, disturbed)]
    drafts = [path for made in (calm, disturbed) for path in made.windows.parent.rglob("_*") if path.is_file()]
    return {
        "windows compared": len(both),
        "windows that differ or are missing": len(changed) + len(names[0] ^ names[1]),
        "frames compared": len(frames[0]),
        "frames of the mp4 that differ or are missing": sum(a != b for a, b in zip(*frames, strict=False))
        + abs(len(frames[0]) - len(frames[1])),
        "bytes of the mp4 differ": int(calm.video.read_bytes() != disturbed.video.read_bytes()),
        "unfinished files left behind": len(drafts),
    }


def _frames(video: Path) -> list[bytes]:
    with av.open(str(video)) as container:
        return [frame.to_ndarray(format="rgb24").tobytes() for frame in container.decode(video=0)]


@dataclass(frozen=True, kw_only=True)
class Kills:
    """How long a video, by which settings, and how often it is killed."""

    model: Path
    frames: int
    windows: int
    steps: int
    batch: int
    kills: int
    seed: int
    device: str


def report(settings: Kills, folder: Path, say: Callable[[str], None]) -> list[str]:
    """Both videos below `folder`, compared."""
    chance = random.Random(settings.seed)
    story = write_story(folder / "story.yaml", settings.frames)
    moments = sorted(chance.sample(range(round(settings.windows * LATEST_FRAC)), k=settings.kills))
    made = []
    for name, strikes in (("calm", []), ("disturbed", moments)):
        (folder / name).mkdir()
        video = folder / name / "video.mp4"
        say(f"{name}: {settings.frames} frames")
        made.append(make(generate_command(settings, story, video), Made(video), strikes, chance, say))
    return _lines(settings, *made)


def _lines(settings: Kills, calm: Made, disturbed: Made) -> list[str]:
    rows = [
        [what, str(count) if what in COMPARED else f"{count} (0: {'**missed**' if count else 'holds'})"]
        for what, count in differences(calm, disturbed).items()
    ]
    moments = ", ".join(map(str, disturbed.kills))
    return [
        f"`python -m pipelines.generate --frames {settings.frames} --steps {settings.steps} --batch {settings.batch}`, "
        f"killed (SIGKILL) after {moments} of {settings.windows} windows and given again each time. In peace it took "
        f"{calm.wall_s:.0f} s, disturbed {disturbed.wall_s:.0f} s, loading {len(disturbed.kills) + 1} times included.",
        "",
        *table(["killed and resumed", ""], rows),
    ]
