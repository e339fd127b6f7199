"""Do scenes show what their prompts ask for, is the hero kept, do places return? Each beside chance and a control.

Scores are shares of the scenes of one video, so that intervals draw videos. The control reads the same videos against
other videos' prompts or scenes. Chance is what videos without any fault would reach there: it follows from the prompts
alone, and tells how much the prompts of different videos have in common.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nuwa.evaluate.bootstrap import Bootstrap, Estimate, estimate_mean
from nuwa.evaluate.drift import mean_known
from nuwa.evaluate.scene_probe import Scene, SceneProbe, asked

Floats = NDArray[np.float64]
Values = tuple[str | float | None, ...]
Share = Callable[["ReadVideo", "ReadVideo"], float]
"""A video and the one that says what it should show (itself, or another for the control) → share, NaN for none."""

MOST_OTHERS = 16
"""Videos that each one is compared with for control and chance."""


@dataclass(frozen=True)
class ReadVideo:
    """The scenes of one video, the prompt of every frame, and the source it was cut from."""

    scenes: tuple[Scene, ...]
    prompts: tuple[str, ...]
    source: int = 0


@dataclass(frozen=True)
class Scores:
    """Of every video, (n,) each; NaN where a video has nothing to score."""

    own: Floats
    control: Floats
    chance: Floats


@dataclass(frozen=True)
class Judged:
    """A share of scenes over all videos; None for a control or chance that cannot be had."""

    value: Estimate
    control: Estimate | None
    chance: Estimate | None


def judged(scores: Scores, videos: Sequence[ReadVideo], bootstrap: Bootstrap, purpose: str) -> Judged:
    """Means over videos with their intervals."""
    sources = np.array([video.source for video in videos])

    def mean(values: Floats, name: str) -> Estimate:
        return _within_0_and_1(estimate_mean(values, sources, bootstrap, f"{purpose}{name}"))

    control, chance = mean(scores.control, " control"), mean(scores.chance, " chance")
    return Judged(
        mean(scores.own, ""),
        control if np.isfinite(control.value) else None,
        chance if np.isfinite(chance.value) else None,
    )


def _within_0_and_1(share: Estimate) -> Estimate:
    """Intervals are centred on the value, so that those of shares may reach over the ends."""
    if share.low is None or share.high is None:
        return share
    return Estimate(share.value, max(0.0, share.low), min(1.0, share.high))


def agreement(videos: Sequence[ReadVideo], attribute: str, words: tuple[str, ...]) -> Scores:
    """Share of scenes that show the word that their prompt asks for; scenes whose prompt asks for none do not count."""

    def shown(video: ReadVideo, other: ReadVideo) -> float:
        pairs = [(scene.shown.get(attribute), _asked_at(other, scene, words)) for scene in video.scenes]
        return _share([value == wanted for value, wanted in pairs if wanted is not None])

    def wanted(video: ReadVideo, other: ReadVideo) -> float:
        pairs = [(asked(scene.prompt, words), _asked_at(other, scene, words)) for scene in video.scenes]
        return _share([mine == theirs for mine, theirs in pairs if mine is not None and theirs is not None])

    return _scores(videos, shown, wanted)


def kept(videos: Sequence[ReadVideo], attributes: tuple[str, ...], probe: SceneProbe) -> Scores:
    """Share of the scenes after the first that show the same as the first one in all `attributes`.

    A scene in which one of them cannot be seen does not show the same. The control compares with the first scenes of
    other videos. No chance where prompts do not ask for the attributes.
    """

    def shown(scene: Scene) -> Values:
        return tuple(scene.shown.get(attribute) for attribute in attributes)

    def wanted(scene: Scene) -> Values:
        return tuple(asked(scene.prompt, probe.choices[attribute]) for attribute in attributes)

    def share_shown(video: ReadVideo, other: ReadVideo) -> float:
        first = shown(other.scenes[0]) if other.scenes else None
        return _share([shown(scene) == first and None not in first for scene in video.scenes[1:]])

    def share_wanted(video: ReadVideo, other: ReadVideo) -> float:
        first = wanted(other.scenes[0]) if other.scenes else (None,)
        asking = [scene for scene in video.scenes[1:] if None not in wanted(scene) and None not in first]
        return _share([wanted(scene) == first for scene in asking])

    return _scores(videos, share_shown, share_wanted)


def returned(videos: Sequence[ReadVideo], attribute: str, words: tuple[str, ...]) -> Scores:
    """Share of the returns that show what the first visit showed.

    A return is a scene whose prompt asks for a word that an earlier one asked for, with another word in between. The
    control compares with the first visits of other videos.
    """

    def pairs(video: ReadVideo, other: ReadVideo) -> list[tuple[Scene, Scene]]:
        if other is video:
            return _returns(video, words)
        return [(now, visit) for now, _ in _returns(video, words) for _, visit in _returns(other, words)]

    def shown(video: ReadVideo, other: ReadVideo) -> float:
        return _share([_same(now.shown, visit.shown, attribute) for now, visit in pairs(video, other)])

    def wanted(video: ReadVideo, other: ReadVideo) -> float:
        return _share([asked(now.prompt, words) == asked(visit.prompt, words) for now, visit in pairs(video, other)])

    return _scores(videos, shown, wanted)


def numbers(videos: Sequence[ReadVideo], attribute: str) -> Floats:
    """Mean over the scenes of every video of an attribute that is a number, (n,); NaN where it has none."""
    values = [[s.shown[attribute] for s in v.scenes if isinstance(s.shown.get(attribute), float)] for v in videos]
    return mean_known(_padded(values), axis=1)


def _padded(rows: Sequence[Sequence[str | float]]) -> Floats:
    """(n, longest), NaN past the end of a row."""
    found = np.full((len(rows), max(map(len, rows), default=0)), np.nan)
    for at, row in enumerate(rows):
        found[at, : len(row)] = row
    return found


def _scores(videos: Sequence[ReadVideo], shown: Share, wanted: Share) -> Scores:
    return Scores(
        own=np.array([shown(video, video) for video in videos]),
        control=np.array([_over_others(videos, at, shown) for at in range(len(videos))]),
        chance=np.array([_over_others(videos, at, wanted) for at in range(len(videos))]),
    )


def _over_others(videos: Sequence[ReadVideo], at: int, share: Share) -> float:
    """Mean of `share` of one video with the next ones, those of its own source left out."""
    following = [videos[(at + step) % len(videos)] for step in range(1, len(videos))]
    others = [video for video in following if video.source != videos[at].source][:MOST_OTHERS]
    return float(mean_known(np.array([share(videos[at], other) for other in others], np.float64)))


def _share(right: Sequence[bool]) -> float:
    return float(np.mean(right)) if right else float("nan")


def _returns(video: ReadVideo, words: tuple[str, ...]) -> list[tuple[Scene, Scene]]:
    """Every return with the first visit."""
    visits = dict[str, Scene]()
    found, last = list[tuple[Scene, Scene]](), None
    for scene in video.scenes:
        word = asked(scene.prompt, words)
        if word is None:
            continue
        if word in visits and word != last:
            found.append((scene, visits[word]))
        visits.setdefault(word, scene)
        last = word
    return found


def _same(now: Mapping[str, str | float], visit: Mapping[str, str | float], attribute: str) -> bool:
    return now.get(attribute) is not None and now.get(attribute) == visit.get(attribute)


def _asked_at(video: ReadVideo, scene: Scene, words: tuple[str, ...]) -> str | None:
    """What the prompts of `video` ask for at the middle of the scene; the last prompt goes on past the end."""
    return asked(video.prompts[min(scene.middle, len(video.prompts) - 1)], words) if video.prompts else None
