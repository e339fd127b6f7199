"""A story is a list of prompts with durations; here it becomes one prompt per frame."""

import math
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import yaml

from nuwa.hierarchy import NuwaError

_FORM = "a story is `fps: 8` and `scenes:`, a list of `{prompt: text, seconds: number}`"


@dataclass(frozen=True)
class Scene:
    """One prompt and how long it lasts, in seconds."""

    prompt: str
    seconds: float


@dataclass(frozen=True)
class Story:
    """Scenes in order; `fps` is None when the file leaves it to the model."""

    scenes: tuple[Scene, ...]
    fps: float | None = None


@dataclass(frozen=True)
class Span:
    """Frames `first` to `last`, both included, that share one prompt."""

    prompt: str
    first: int
    last: int


def load_story(path: str | Path) -> Story:
    """Read a story from YAML. Raises NuwaError, one line naming the file and the entry, for anything else."""
    try:
        text = Path(path).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise NuwaError(f"story {path} cannot be read ({error}); give a YAML file with prompts") from error
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        line = " ".join(str(error).split())
        raise NuwaError(f"story {path} is no valid YAML ({line}); {_FORM}") from error
    return parse_story(content, str(path))


def parse_story(content: Any, name: str = "story") -> Story:
    """Check the parsed YAML of a story; `name` is how errors call it."""
    if not isinstance(content, dict):
        raise NuwaError(f"{name} holds {type(content).__name__}, not a mapping; {_FORM}")
    _known_keys(content, {"fps", "scenes"}, name)
    entries = content.get("scenes")
    if not isinstance(entries, list) or not entries:
        raise NuwaError(f"{name} has no prompts; {_FORM}")
    scenes = tuple(_scene(entry, f"{name}, scene {number}") for number, entry in enumerate(entries, 1))
    fps = content.get("fps")
    return Story(scenes, None if fps is None else _positive(fps, "fps", name))


def frame_prompts(story: Story, fps: float, frames: int | None = None) -> list[str]:
    """The prompt of every frame at `fps`; `frames` crops the list or extends its last prompt.

    Scene borders lie at the nearest frame of the time elapsed, so rounding does not add up over a long story.
    """
    prompts: list[str] = []
    elapsed_s = 0.0
    for number, scene in enumerate(story.scenes, 1):
        elapsed_s += scene.seconds
        count = round(elapsed_s * fps) - len(prompts)
        if count < 1:
            raise NuwaError(
                f"scene {number} lasts {scene.seconds} s, less than a frame at {fps:g} fps; give it more time"
            )
        prompts += [scene.prompt] * count
    if frames is None:
        return prompts
    if frames < 1:
        raise NuwaError(f"{frames} frames is no video; ask for at least 1")
    return (prompts + [prompts[-1]] * frames)[:frames]


def spans(prompts: list[str]) -> list[Span]:
    """Runs of equal prompts, in order."""
    found: list[Span] = []
    for prompt, group in groupby(prompts):
        first = found[-1].last + 1 if found else 0
        found.append(Span(prompt, first, first + sum(1 for _ in group) - 1))
    return found


def _known_keys(content: dict[Any, Any], known: set[str], name: str) -> None:
    unknown = sorted(str(key) for key in content if key not in known)
    if unknown:
        raise NuwaError(f"{name} has an unknown key `{unknown[0]}` (known: {', '.join(sorted(known))}); {_FORM}")


def _scene(entry: Any, name: str) -> Scene:
    if not isinstance(entry, dict):
        raise NuwaError(f"{name} is {entry!r}, not a mapping; {_FORM}")
    _known_keys(entry, {"prompt", "seconds"}, name)
    prompt = entry.get("prompt")
    if not isinstance(prompt, str) or not prompt.strip():
        raise NuwaError(f"{name} has no prompt; {_FORM}")
    return Scene(prompt.strip(), _positive(entry.get("seconds"), "seconds", name))


def _positive(value: Any, key: str, name: str) -> float:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or value <= 0:
        raise NuwaError(f"{name} has {key} = {value!r}; it must be a number above 0")
    return float(value)
