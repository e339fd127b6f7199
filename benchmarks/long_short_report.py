"""Tables, verdicts and the plot of benchmarks.long_against_short, from what was measured of every story."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks import arms
from benchmarks.arms import Measure, Values
from benchmarks.plots import Line, Panel, write_plot
from nuwa.evaluate.bootstrap import Estimate, Floats, Indices, estimate
from nuwa.evaluate.drift import theil_sen
from nuwa.evaluate.figures import mmd_distances

Along = Callable[[str, Indices], Floats]
"""Arm and stories → values along the videos, (p,)."""
SHARES = ("hero kept", "colour kept", "places returned to", "place right", "action right", "hero seen")
CLAIMS = ("hero kept", "colour kept", "places returned to", "toy KID", "its slope per minute")
"""What the paper's order is asked of."""


@dataclass(frozen=True)
class Compared:
    """What was measured of every story, by arm: shares (n,), `colour at` (n parts), `features` (n p d).

    long, short, drawn: names of the arms; seconds: length of the videos
    """

    found: dict[str, Values]
    long: str
    short: tuple[str, ...]
    drawn: str
    seconds: float

    @property
    def made(self) -> list[str]:
        """The arms that generate."""
        return [self.long, *self.short]

    @property
    def sources(self) -> Indices:
        """The stories."""
        return np.arange(len(self.found[self.long]["features"]))

    def times_s(self, name: str) -> Floats:
        """Middles of the equal parts of a video that a value along it has."""
        parts = self.found[self.long][name].shape[1]
        return np.asarray((np.arange(parts) + 0.5) * self.seconds / parts, np.float64)


def report(compared: Compared) -> list[str]:
    """Tables, and what they say about the paper's order."""
    shares, quality, sources = share_measures(compared), quality_measures(compared), compared.sources
    return [
        *arms.measure_table(shares, [*compared.made, compared.drawn], sources),
        "",
        *arms.measure_table(quality, compared.made, sources),
        "",
        *comparisons(compared, [measure for measure in (*shares, *quality) if measure.name in CLAIMS]),
    ]


def share_measures(compared: Compared) -> list[Measure]:
    """What the probe reads; higher is better."""
    return [Measure(name=name, of=arms.mean_of(compared.found, name), lower_is_better=False) for name in SHARES]


def quality_measures(compared: Compared) -> list[Measure]:
    """Distance of frames to drawn ones, and its slope along the video."""
    along, times = quality_along(compared), compared.times_s("features")

    def slope(arm: str, chosen: Indices) -> float:
        return 60.0 * theil_sen(times, along(arm, chosen))

    return [
        Measure(name="toy KID", of=lambda arm, chosen: float(along(arm, chosen).mean())),
        Measure(name="its slope per minute", of=slope),
    ]


def quality_along(compared: Compared) -> Along:
    """Kernel distance (KID's MMD²) of the frames at every position to drawn ones."""
    real = compared.found[compared.drawn]["features"]
    distances = {
        arm: mmd_distances(real, features, np.arange(len(real)), np.arange(len(features)))
        for arm in compared.made
        for features in [compared.found[arm]["features"]]
    }
    return lambda arm, chosen: distances[arm].real_generated(np.arange(len(real)), chosen)


def comparisons(compared: Compared, measures: Sequence[Measure]) -> list[str]:
    """For every measure and overlap by how much training on long is better; then what that says of the paper."""
    lines, verdicts = list[str](), list[str]()
    for measure in measures:
        for arm in compared.short:
            found = arms.advantage(measure, compared.long, arm, compared.sources)
            verdicts.append(arms.verdict_of(found))
            lines.append(f"- {measure.name}: long is better than {arm} by {arms.shown(found, 3)}: {verdicts[-1]}")
    agreed = sum(verdict == "as in the paper" for verdict in verdicts)
    against = sum("other way" in verdict for verdict in verdicts)
    said = "reproduced in part" if agreed > against else "not reproduced"
    return [
        *lines,
        "- the paper's order, training on long before autoregression by training on short (Table 1): "
        f"**{'reproduced' if agreed == len(verdicts) else said}** ({agreed} of {len(verdicts)} comparisons as in the "
        f"paper, {against} the other way round)",
    ]


def plot(compared: Compared, results: Path) -> str:
    """Quality and the first colour along the videos."""

    def colours(arm: str, chosen: Indices) -> Floats:
        return np.asarray(compared.found[arm]["colour at"][chosen].mean(axis=0))

    quality = quality_along(compared)
    panels = [
        Panel(
            title="Distance of frames to drawn ones",
            x_label="seconds into the video",
            y_label="toy KID, lower is better",
            lines=[_line(arm, quality, compared.times_s("features"), compared) for arm in compared.made],
        ),
        Panel(
            title="Frames with the colour of the first second",
            x_label="seconds into the video",
            y_label="share",
            lines=[
                _line(arm, colours, compared.times_s("colour at"), compared) for arm in (*compared.made, compared.drawn)
            ],
        ),
    ]
    alt = "Distance to drawn frames and share of frames with the first colour along the video, by arm"
    return write_plot("long-against-short", alt, panels, results)


def _line(arm: str, along: Along, times: Floats, compared: Compared) -> Line:
    """A value along the video with its interval over stories."""

    def at(place: int) -> Estimate:
        return estimate(
            lambda chosen: float(along(arm, chosen)[place]), compared.sources, arms.RESAMPLES, f"along {place}"
        )

    values = [at(place) for place in range(len(times))]
    return Line(arm, list(times), [v.value for v in values], [v.low for v in values], [v.high for v in values])
