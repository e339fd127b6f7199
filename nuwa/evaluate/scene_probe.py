"""What the scenes of a video show, as a probe from outside reads it: words, which prompts ask for, and numbers.

A scene is a stretch of frames with one prompt. This library knows no world: which attributes there are, their words and
how pixels are read all come with the probe.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from nuwa.hierarchy import NuwaError

Read = Callable[[NDArray[np.uint8]], Mapping[str, str | float]]
"""Frames of one scene, (t h w 3) uint8 RGB → attribute → a word of its choices, or a number. What cannot be seen is
missing."""


@dataclass(frozen=True, kw_only=True)
class SceneProbe:
    """A world's attributes and how they are read.

    name: as reports say it. read: see `Read`. choices: attribute → the words that prompts use for it
    kept: figure → attributes that all scenes of a video should share with its first one
    returning: figure → attribute of which a scene should show what it showed when the prompts first asked for the same
    least_frames: scenes shorter than this are not read
    """

    name: str
    read: Read
    choices: Mapping[str, tuple[str, ...]]
    kept: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    returning: Mapping[str, str] = field(default_factory=dict)
    least_frames: int = 1


@dataclass(frozen=True)
class Scene:
    """`frames` frames from number `first` on, the prompt of all of them, and what was read."""

    first: int
    frames: int
    prompt: str
    shown: Mapping[str, str | float]

    @property
    def middle(self) -> int:
        """Number of the frame in the middle."""
        return self.first + self.frames // 2


def stretches(prompts: Sequence[str]) -> list[range]:
    """Frame numbers of every scene, in order."""
    found, first = list[range](), 0
    for _, frames in groupby(prompts):
        count = len(list(frames))
        found.append(range(first, first + count))
        first += count
    return found


def read_scenes(frames: NDArray[np.uint8], prompts: Sequence[str], probe: SceneProbe) -> tuple[Scene, ...]:
    """Read every scene that is long enough. frames: (t h w 3) uint8 RGB, one prompt each.

    NuwaError for another number of prompts, and for a reading that is none of the probe's words.
    """
    if len(prompts) != len(frames):
        raise NuwaError(f"{len(prompts)} prompts for {len(frames)} frames; give one per frame")
    found = []
    for numbers in stretches(prompts):
        if len(numbers) >= probe.least_frames:
            shown = dict(probe.read(frames[numbers.start : numbers.stop]))
            _check(shown, probe)
            found.append(Scene(numbers.start, len(numbers), prompts[numbers.start], shown))
    return tuple(found)


def _check(shown: Mapping[str, str | float], probe: SceneProbe) -> None:
    for attribute, value in shown.items():
        if isinstance(value, str) and value not in probe.choices.get(attribute, ()):
            known = ", ".join(probe.choices.get(attribute, ())) or "none"
            raise NuwaError(f"probe {probe.name} read {attribute} {value!r}, which its choices ({known}) do not hold")


@lru_cache(4096)
def asked(prompt: str, words: tuple[str, ...]) -> str | None:
    """The one of `words`, each one or more words long, that the prompt holds; None where it holds none or several."""
    found = [word for word in words if re.search(rf"\b{re.escape(word)}\b", prompt, re.IGNORECASE)]
    return found[0] if len(found) == 1 else None


def asks_anything(prompts: Sequence[str], probe: SceneProbe) -> bool:
    """Whether a prompt asks for anything that the probe reads."""
    return any(asked(prompt, words) for prompt in dict.fromkeys(prompts) for words in probe.choices.values())
