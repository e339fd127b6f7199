"""Charts as inline SVG text; colours come from the page's style sheet, so they follow light and dark."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
import numpy.typing as npt

WIDTH, HEIGHT = 360, 190
_LEFT, _RIGHT, _TOP, _BOTTOM = 42, 12, 22, 26


@dataclass(frozen=True)
class Bound:
    """A threshold: values below `value` (`is_minimum`) or above it are rejected."""

    value: float
    is_minimum: bool
    label: str


@dataclass(frozen=True)
class Curve:
    """One line of a chart: points (x, y) with x rising."""

    name: str
    x: npt.NDArray[np.float64]
    y: npt.NDArray[np.float64]


@dataclass(frozen=True)
class _Axes:
    """Data to pixels of the plot area; y may be logarithmic."""

    x: tuple[float, float]
    y: tuple[float, float]
    log_y: bool = False

    def px(self, x: float) -> float:
        low, high = self.x
        return _LEFT + (x - low) / (high - low) * (WIDTH - _LEFT - _RIGHT)

    def py(self, y: float) -> float:
        low, high, y = (*map(math.log10, self.y), math.log10(y)) if self.log_y else (*self.y, y)
        return HEIGHT - _BOTTOM - (y - low) / (high - low) * (HEIGHT - _TOP - _BOTTOM)


def histogram(values: npt.ArrayLike, bounds: Sequence[Bound], name: str, num_bins: int = 32) -> str:
    """Distribution of `values`, those that a bound rejects in another colour, each bound a labelled line."""
    known = np.asarray(values, dtype=np.float64)
    known = known[np.isfinite(known)]
    if known.size == 0:
        return _frame(name, f'<text class="empty" x="{WIDTH / 2}" y="{HEIGHT / 2}">no values</text>')
    low, high = _range([*known, *(bound.value for bound in bounds)])
    rejected = np.zeros(known.size, dtype=bool)
    for bound in bounds:
        rejected |= known < bound.value if bound.is_minimum else known > bound.value
    edges = np.linspace(low, high, num_bins + 1)
    good, bad = (np.histogram(known[chosen], edges)[0] for chosen in (~rejected, rejected))
    axes = _Axes((low, high), (0.0, 1.18 * float((good + bad).max())))  # room for the labels of the bounds
    bars = "".join(
        _bar(axes, edges[n], edges[n + 1], 0, good[n], "good")
        + _bar(axes, edges[n], edges[n + 1], good[n], bad[n], "bad")
        for n in range(num_bins)
    )
    lines = "".join(_bound_line(axes, bound) for bound in bounds)
    return _frame(name, _y_grid(axes, _ticks(*axes.y)) + bars + lines + _x_labels(axes))


def line_chart(curves: Sequence[Curve], name: str, log_y: bool = False) -> str:
    """Curves over a shared x axis, each drawn raw and faint, and again smoothed and strong."""
    curves = [curve for curve in curves if curve.x.size]
    if not curves:
        return _frame(name, f'<text class="empty" x="{WIDTH / 2}" y="{HEIGHT / 2}">no values</text>')
    log_y = log_y and all((curve.y > 0).all() for curve in curves)
    x_range = _range(np.concatenate([curve.x for curve in curves]))
    axes = _Axes(x_range, _range(np.concatenate([curve.y for curve in curves])), log_y)
    drawn = "".join(
        f'<polyline class="line raw c{n % 5}" points="{_points(axes, curve.x, curve.y)}"/>'
        f'<polyline class="line c{n % 5}" points="{_points(axes, curve.x, _smooth(curve.y))}">'
        f"<title>{escape(curve.name)}: last {curve.y[-1]:.4g}</title></polyline>"
        for n, curve in enumerate(curves)
    )
    ticks = _log_ticks(*axes.y) if log_y else _ticks(*axes.y)
    return _frame(name, _y_grid(axes, ticks) + drawn + _x_labels(axes)) + _legend(curves)


def _frame(name: str, content: str) -> str:
    return (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(name)}">'
        f'<text class="name" x="0" y="12">{escape(name)}</text>{content}</svg>'
    )


def _legend(curves: Sequence[Curve]) -> str:
    if len(curves) < 2:
        return ""
    keys = "".join(f'<span><i class="c{n % 5}"></i>{escape(curve.name)}</span>' for n, curve in enumerate(curves))
    return f'<div class="legend">{keys}</div>'


def _range(values: Sequence[float] | npt.NDArray[np.float64]) -> tuple[float, float]:
    low, high = float(np.min(values)), float(np.max(values))
    return (low, high) if high > low else (low - 0.5 * (abs(low) or 1), high + 0.5 * (abs(high) or 1))


def _bar(axes: _Axes, left: float, right: float, base: float, count: float, kind: str) -> str:
    if count == 0:
        return ""
    x, top, bottom = axes.px(left), axes.py(base + count), axes.py(base)
    width = max(axes.px(right) - x - 1, 1)
    title = f"<title>{left:.3g} to {right:.3g}: {count:.0f} clips</title>"
    place = f'x="{x:.1f}" y="{top:.1f}" width="{width:.1f}" height="{bottom - top:.1f}"'
    return f'<rect class="bar {kind}" {place}>{title}</rect>'


def _bound_line(axes: _Axes, bound: Bound) -> str:
    x = axes.px(bound.value)
    anchor = "start" if x < WIDTH / 2 else "end"
    shift = 4 if anchor == "start" else -4
    place = f'x="{x + shift:.1f}" y="{_TOP + 4}" text-anchor="{anchor}"'
    return (
        f'<line class="bound" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP - 4}" y2="{HEIGHT - _BOTTOM}"/>'
        f'<text class="bound-label" {place}>{escape(bound.label)}</text>'
    )


def _ticks(low: float, high: float, count: int = 3) -> list[float]:
    step = 10 ** math.floor(math.log10((high - low) / count))
    step *= next(m for m in (1, 2, 5, 10) if (high - low) / (m * step) <= count + 0.5)
    return [k * step for k in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    multiples = (1,) if len(exponents) > 4 else (1, 2, 5)
    ticks = [m * 10.0**k for k in exponents for m in multiples if low <= m * 10.0**k <= high]
    return ticks if len(ticks) > 1 else _ticks(low, high)


def _y_grid(axes: _Axes, ticks: Sequence[float]) -> str:
    return "".join(
        f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{axes.py(tick):.1f}" y2="{axes.py(tick):.1f}"/>'
        f'<text class="tick" x="{_LEFT - 6}" y="{axes.py(tick) + 3:.1f}" text-anchor="end">{tick:.4g}</text>'
        for tick in ticks
    )


def _x_labels(axes: _Axes) -> str:
    return "".join(
        f'<text class="tick" x="{axes.px(tick):.1f}" y="{HEIGHT - 10}" text-anchor="middle">{tick:.4g}</text>'
        for tick in _ticks(*axes.x, count=4)
    )


def _points(axes: _Axes, x: npt.NDArray[np.float64], y: npt.NDArray[np.float64], most: int = 400) -> str:
    keep = np.unique(np.linspace(0, x.size - 1, min(most, x.size)).astype(int))
    return " ".join(f"{axes.px(x[n]):.1f},{axes.py(y[n]):.1f}" for n in keep)


def _smooth(y: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Running mean over a tenth of the points, shorter at the ends."""
    half = max(1, y.size // 20)
    sums = np.concatenate([[0.0], np.cumsum(y)])
    first = np.clip(np.arange(y.size) - half, 0, None)
    last = np.clip(np.arange(y.size) + half + 1, None, y.size)
    return (sums[last] - sums[first]) / (last - first)
