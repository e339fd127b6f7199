"""A story is a list of prompts with times; here it becomes one prompt per frame, at every level of the hierarchy."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import yaml

from nuwa.hierarchy import NuwaError

_FORM = (
    "a story is `fps: 8` and `scenes:`, a list of `{prompt: text, seconds: number}` or "
    "`{prompt: text, start: seconds, end: seconds}`"
)
_SAME_S = 1e-3
"""Two times that differ by less are one: no frame is this short."""

MOST_FRAMES = 10**7
"""Frames of the longest video: two weeks at 8 a second. Every frame's prompt stands in memory and in the record, which
is 400 MB of text by then; what lies beyond is a slip of the finger."""


@dataclass(frozen=True)
class Scene:
    """One prompt from `start_s` to `end_s`; `level_prompts` says something else at some levels (0 = global)."""

    prompt: str
    start_s: float
    end_s: float
    level_prompts: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class GivenImage:
    """An image that the story starts from, at a time or at a frame number (the other is None)."""

    image: Path
    at_s: float | None = None
    frame: int | None = None


@dataclass(frozen=True)
class Story:
    """Scenes in order, without gaps; `fps` is None when the file leaves it to the model."""

    scenes: tuple[Scene, ...]
    fps: float | None = None
    given: tuple[GivenImage, ...] = ()


@dataclass(frozen=True)
class Span:
    """Frames `first` to `last`, both included, that share one prompt."""

    prompt: str
    first: int
    last: int


def load_story(path: str | Path) -> Story:
    """Read a story from YAML. Raises NuwaError, one line naming the file and the entry, for anything else.

    Images are looked for beside the file.
    """
    path = Path(path)
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise NuwaError(f"story {path} cannot be read ({error}); give a YAML file with prompts") from error
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        line = " ".join(str(error).split())
        raise NuwaError(f"story {path} is no valid YAML ({line}); {_FORM}") from error
    return parse_story(content, str(path), path.parent)


def prompt_story(prompt: str, frames: int, fps: float) -> Story:
    """One prompt for `frames` frames."""
    return Story((Scene(prompt, 0.0, max(frames, 1) / fps),))


def parse_story(content: Any, name: str = "story", folder: Path = Path()) -> Story:
    """Check the parsed YAML of a story; `name` is how errors call it, `folder` is where its images lie."""
    if not isinstance(content, dict):
        raise NuwaError(f"{name} holds {type(content).__name__}, not a mapping; {_FORM}")
    _known_keys(content, {"fps", "scenes", "given"}, name)
    entries = content.get("scenes")
    if not isinstance(entries, list) or not entries:
        raise NuwaError(f"{name} has no prompts; {_FORM}")
    scenes: list[Scene] = []
    for number, entry in enumerate(entries, 1):
        before_s = scenes[-1].end_s if scenes else 0.0
        scenes.append(_scene(entry, before_s, f"{name}, scene {number}"))
    _check_times(scenes, name)
    fps = content.get("fps")
    rate = None if fps is None else _number(fps, "fps", name, above_zero=True)
    return Story(tuple(scenes), rate, _given(content.get("given"), folder, name))


def frame_prompts(story: Story, fps: float, frames: int | None = None, level: int | None = None) -> list[str]:
    """The prompt of every frame at `fps`, as `level` sees it; `frames` crops the list or extends its last prompt.

    Scene borders lie at the nearest frame of their time, so rounding does not add up over a long story. NuwaError for
    a story or a number of frames that is no video, or one longer than `MOST_FRAMES`.
    """
    if frames is not None and frames > MOST_FRAMES:
        raise NuwaError(f"{frames} frames are more than the {MOST_FRAMES} of the longest video; ask for fewer --frames")
    ends = [frame_at(scene.end_s, fps) for scene in story.scenes]
    if ends[-1] > MOST_FRAMES:
        raise NuwaError(
            f"the story lasts {story.scenes[-1].end_s:g} s, which at {fps:g} fps is more than the {MOST_FRAMES} frames "
            "of the longest video; give its scenes less time"
        )
    for number, (first, end) in enumerate(pairwise([0, *ends]), 1):
        if end <= first:
            scene = story.scenes[number - 1]
            raise NuwaError(
                f"scene {number} ({scene.start_s:g} to {scene.end_s:g} s) lasts less than a frame at {fps:g} fps; "
                "give it more time, or a higher --fps"
            )
    count = ends[-1] if frames is None else frames
    _check_length(count, len(story.scenes))
    shown = [scene.prompt if level is None else scene.level_prompts.get(level, scene.prompt) for scene in story.scenes]
    prompts = [text for text, (first, end) in zip(shown, pairwise([0, *ends]), strict=True) for _ in range(end - first)]
    return (prompts + [prompts[-1]] * count)[:count]


def frame_at(time_s: float, fps: float) -> int:
    """The frame nearest to a time; beyond `MOST_FRAMES` the one after that, as no video has it."""
    return round(min(time_s * fps, MOST_FRAMES + 1))


def level_prompts(story: Story, fps: float, frames: int, depth: int) -> tuple[tuple[str, ...], ...]:
    """One list of `frames` prompts per level, global first. NuwaError for a prompt of a level that is not there."""
    for number, scene in enumerate(story.scenes, 1):
        beyond = sorted(level for level in scene.level_prompts if level >= depth)
        if beyond:
            raise NuwaError(
                f"scene {number} has a prompt for level {beyond[0]}, but {frames} frames take {depth} levels "
                f"({', '.join(map(str, ['global', *range(1, depth)]))}); leave it out or ask for more --depth"
            )
    return tuple(tuple(frame_prompts(story, fps, frames, level)) for level in range(depth))


def spans(prompts: Sequence[str]) -> list[Span]:
    """Runs of equal prompts, in order."""
    found: list[Span] = []
    for prompt, group in groupby(prompts):
        first = found[-1].last + 1 if found else 0
        found.append(Span(prompt, first, first + sum(1 for _ in group) - 1))
    return found


def _check_length(frames: int, scenes: int) -> None:
    if frames < 2:
        raise NuwaError(f"{frames} frame{'' if frames == 1 else 's'} is no video; ask for at least 2")
    if frames < scenes:
        raise NuwaError(
            f"the story has {scenes} prompts, more than the {frames} frames asked for; "
            f"give --frames {scenes} or more, or fewer scenes"
        )


def _check_times(scenes: Sequence[Scene], name: str) -> None:
    if scenes[0].start_s > _SAME_S:
        raise NuwaError(f"{name}, scene 1 starts at {scenes[0].start_s:g} s; the first scene starts at 0")
    for number, (before, after) in enumerate(pairwise(scenes), 1):
        apart_s = after.start_s - before.end_s
        if abs(apart_s) > _SAME_S:
            what = "overlap" if apart_s < 0 else "leave a gap"
            raise NuwaError(
                f"{name}, scenes {number} and {number + 1} {what} of {abs(apart_s):g} s: the one ends at "
                f"{before.end_s:g} s, the other starts at {after.start_s:g} s; let each start where the last one ends"
            )


def _known_keys(content: Mapping[Any, Any], known: set[str], name: str) -> None:
    unknown = sorted(str(key) for key in content if key not in known)
    if unknown:
        raise NuwaError(f"{name} has an unknown key `{unknown[0]}` (known: {', '.join(sorted(known))}); {_FORM}")


def _scene(entry: Any, before_s: float, name: str) -> Scene:
    """One entry of `scenes`; with `seconds` it starts where the one before ends, at `before_s`."""
    if not isinstance(entry, dict):
        raise NuwaError(f"{name} is {entry!r}, not a mapping; {_FORM}")
    _known_keys(entry, {"prompt", "prompts", "seconds", "start", "end"}, name)
    prompt = _text(entry.get("prompt"), f"{name} has no prompt; {_FORM}")
    by_level = _by_level(entry.get("prompts", {}), name)
    if "start" not in entry and "end" not in entry:
        return Scene(prompt, before_s, before_s + _number(entry.get("seconds"), "seconds", name, True), by_level)
    if "seconds" in entry:
        raise NuwaError(f"{name} has `seconds` beside `start` and `end`; give either of them")
    start_s = _number(entry.get("start"), "start", name)
    end_s = _number(entry.get("end"), "end", name)
    if end_s <= start_s:
        raise NuwaError(f"{name} ends at {end_s:g} s, not after its start at {start_s:g} s; give a later end")
    return Scene(prompt, start_s, end_s, by_level)


def _by_level(entry: Any, name: str) -> dict[int, str]:
    """`{global: text, 1: text}` as level → prompt."""
    form = f"{name}: `prompts` is a mapping such as `{{global: text, 1: text}}`"
    if not isinstance(entry, dict):
        raise NuwaError(f"{form}, not {entry!r}")
    found: dict[int, str] = {}
    for key, value in entry.items():
        level = 0 if key == "global" else key
        if not isinstance(level, int) or isinstance(level, bool) or level < 0:
            raise NuwaError(f"{form}; {key!r} is no level")
        if level in found:
            raise NuwaError(f"{form}; level 0 and global are the same, give one of them")
        found[level] = _text(value, f"{name} has no prompt for level {key}; {form}")
    return found


def _given(entries: Any, folder: Path, name: str) -> tuple[GivenImage, ...]:
    form = "`given:` is a list of `{image: file, at: seconds}` or `{image: file, frame: number}`"
    if entries is None:
        return ()
    if not isinstance(entries, list):
        raise NuwaError(f"{name}: {form}, not {entries!r}")
    found = []
    for number, entry in enumerate(entries, 1):
        where = f"{name}, given image {number}"
        if not isinstance(entry, dict) or set(entry) not in ({"image", "at"}, {"image", "frame"}):
            raise NuwaError(f"{where} is {entry!r}; {form}")
        image = folder / _text(entry["image"], f"{where} names no image; {form}")
        if "at" in entry:
            found.append(GivenImage(image, at_s=_number(entry["at"], "at", where)))
        else:
            found.append(GivenImage(image, frame=_frame_number(entry["frame"], where)))
    return tuple(found)


def _text(value: Any, otherwise: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise NuwaError(otherwise)
    return value.strip()


def _frame_number(value: Any, name: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise NuwaError(f"{name} has frame = {value!r}; it must be a whole number from 0")
    return value


def _number(value: Any, key: str, name: str, above_zero: bool = False) -> float:
    """A finite number of at least 0, or above it."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or value < 0 or (above_zero and value == 0):
        raise NuwaError(f"{name} has {key} = {value!r}; it must be a number {'above' if above_zero else 'from'} 0")
    return float(value)
