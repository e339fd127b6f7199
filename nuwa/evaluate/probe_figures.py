"""The figures of a scene probe: every attribute that prompts ask for, what is kept, what returns, and plain numbers."""

from collections.abc import Callable

import numpy as np

from nuwa.evaluate.bootstrap import estimate_mean
from nuwa.evaluate.figures import Comparison, Figure, Measured
from nuwa.evaluate.scene_figures import Judged, ReadVideo, Scores, agreement, judged, kept, numbers, returned
from nuwa.evaluate.scene_probe import SceneProbe

Score = Callable[[list[ReadVideo]], Scores]


def titles_of(probe: SceneProbe) -> dict[str, str]:
    """Figure → label, for all but plain numbers, which show in readings only."""
    labels = {f"probe_{name}": f"scenes that show the {name} of their prompt" for name in probe.choices}
    labels |= {f"probe_{name}": f"scenes with the {' and '.join(of)} of the first" for name, of in probe.kept.items()}
    return labels | {
        f"probe_{name}": f"returns that show the {of} of the first visit" for name, of in probe.returning.items()
    }


def probe_figures(probe: SceneProbe, sets: Comparison) -> list[Figure]:
    """All figures of the probe, generated beside real; those without anything to score have a NaN as value."""
    found = [_figure(name, label, probe, sets) for name, label in titles_of(probe).items()]
    return [*found, *(_mean(name, probe, sets) for name in _plain_numbers(sets.generated))]


def _score(name: str, probe: SceneProbe) -> Score:
    name = name.removeprefix("probe_")
    if name in probe.kept:
        return lambda videos: kept(videos, probe.kept[name], probe)
    if name in probe.returning:
        attribute = probe.returning[name]
        return lambda videos: returned(videos, attribute, probe.choices[attribute])
    return lambda videos: agreement(videos, name, probe.choices[name])


def _figure(name: str, label: str, probe: SceneProbe, sets: Comparison) -> Figure:
    def judge(measured: Measured, purpose: str) -> Judged:
        videos = read_videos(measured)
        return judged(_score(name, probe)(videos), videos, sets.bootstrap, purpose)

    made, real = judge(sets.generated, name), judge(sets.real, f"{name} real")
    return Figure(
        name=name,
        label=label,
        better="higher",
        judge=probe.name,
        value=made.value,
        floor=real.value if np.isfinite(real.value.value) else None,
        control=made.control,
        chance=made.chance,
        counts=_counts(sets),
    )


def _mean(name: str, probe: SceneProbe, sets: Comparison) -> Figure:
    """Mean over scenes of a number."""
    made, real = (
        estimate_mean(numbers(read_videos(measured), name), measured.sources, sets.bootstrap, f"{name}{kind}")
        for measured, kind in ((sets.generated, ""), (sets.real, " real"))
    )
    floor = real if np.isfinite(real.value) else None
    label = f"{name.replace('_', ' ')}, mean over scenes"
    return Figure(
        name=f"probe_{name}",
        label=label,
        better="near the real",
        judge=probe.name,
        value=made,
        floor=floor,
        counts=_counts(sets),
    )


def read_videos(measured: Measured) -> list[ReadVideo]:
    """What was read of every clip."""
    pairs = zip(measured.clips, measured.sources, strict=True)
    return [ReadVideo(clip.scenes, clip.prompts, int(source)) for clip, source in pairs]


def _plain_numbers(measured: Measured) -> list[str]:
    shown = [scene.shown for clip in measured.clips for scene in clip.scenes]
    return list(dict.fromkeys(name for one in shown for name, value in one.items() if isinstance(value, float)))


def _counts(sets: Comparison) -> dict[str, int]:
    real, generated = (sum(len(clip.scenes) for clip in measured.clips) for measured in (sets.real, sets.generated))
    return {"real": real, "generated": generated}
