"""Line plots of benchmarks as SVG: panels side by side, intervals as bars, no plotting library, readable anywhere."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

WIDTH, HEIGHT = 440, 320
_LEFT, _RIGHT, _TOP, _BOTTOM, _KEY = 66, 16, 36, 48, 18
_INK, _PALE, _PAPER = "#28282f", "#d5d5de", "#ffffff"
_COLOURS = ("#2f6fb2", "#c2571a", "#3d8b46", "#7a4fa3", "#8a8a96", "#b08a1e")
Point = tuple[float, float, float | None, float | None]


@dataclass(frozen=True)
class Line:
    """Named values y over x; `low` and `high` are the ends of their intervals, None where there is none.

    Values that are not finite are left out.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float | None] | None = None
    high: Sequence[float | None] | None = None

    def points(self) -> list[Point]:
        """(x, y, low, high) of every finite value."""
        nothing = [None] * len(self.x)
        every = zip(self.x, self.y, self.low or nothing, self.high or nothing, strict=True)
        return [point for point in every if math.isfinite(point[0]) and math.isfinite(point[1])]


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One plot: lines on shared axes. A logarithmic axis needs values above 0."""

    title: str
    x_label: str
    y_label: str
    lines: Sequence[Line]
    log_x: bool = False
    log_y: bool = False


@dataclass(frozen=True)
class _Axis:
    """Values to pixels, from the first pixel to the last."""

    low: float
    high: float
    first_px: float
    last_px: float
    log: bool

    def px(self, value: float) -> float:
        low, high, value = (_log(v) for v in (self.low, self.high, value)) if self.log else (self.low, self.high, value)
        return self.first_px + (value - low) / (high - low) * (self.last_px - self.first_px)

    def ticks(self) -> list[float]:
        """Round numbers inside the range, three or more of them."""
        decades = range(math.floor(_log(self.low)), math.ceil(_log(self.high)) + 1) if self.log else range(0)
        for factors in ((1,), (1, 2, 5), range(1, 10)) if self.log else ():
            found = [factor * 10.0**decade for decade in decades for factor in factors]
            inside = [tick for tick in found if self.low <= tick <= self.high * (1 + 1e-9)]
            if len(inside) >= 3:
                return inside
        power = 10.0 ** math.floor(math.log10(self.high - self.low))
        for step in (power, power / 2, power / 5, power / 10):
            numbers = range(math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9) + 1)
            if len(numbers) >= 4:
                break
        return [step * number for number in numbers]


def write_plot(name: str, alt: str, panels: Sequence[Panel], results: Path) -> str:
    """Draw into `figures/` beside the file of results; the Markdown line that shows the picture there."""
    path = results.parent / "figures" / f"{name}.svg"
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"_{path.name}")
    temporary.write_text(draw(panels), "utf-8")
    temporary.replace(path)
    return f"![{alt}](figures/{path.name})"


def draw(panels: Sequence[Panel]) -> str:
    """SVG of the panels, from left to right."""
    keys = max(len(panel.lines) for panel in panels)
    height = HEIGHT + _KEY * keys
    parts = [
        f'<g transform="translate({number * WIDTH} 0)">{"".join(_panel(panel))}</g>'
        for number, panel in enumerate(panels)
    ]
    width = WIDTH * len(panels)
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
            f'height="{height}" font-family="Helvetica, Arial, sans-serif" font-size="12" fill="{_INK}">',
            f'<rect width="{width}" height="{height}" rx="8" fill="{_PAPER}"/>',
            *parts,
            "</svg>",
            "",
        ]
    )


def _panel(panel: Panel) -> Iterator[str]:
    x, y = _axes(panel)
    middle = (y.first_px + y.last_px) / 2
    yield f'<text x="{_LEFT}" y="22" font-weight="bold">{escape(panel.title)}</text>'
    yield from _grid(x, y)
    yield f'<text x="{WIDTH - _RIGHT}" y="{HEIGHT - 8}" text-anchor="end">{escape(panel.x_label)}</text>'
    yield f'<text transform="translate(14 {middle}) rotate(-90)" text-anchor="middle">{escape(panel.y_label)}</text>'
    for number, line in enumerate(panel.lines):
        colour = _COLOURS[number % len(_COLOURS)]
        yield from _line(line, x, y, colour)
        level = HEIGHT + _KEY * number + 8
        yield f'<path d="M{_LEFT} {level - 4} h18" stroke="{colour}" stroke-width="2"/>'
        yield f'<text x="{_LEFT + 24}" y="{level}">{escape(line.name)}</text>'


def _axes(panel: Panel) -> tuple[_Axis, _Axis]:
    points = [point for line in panel.lines for point in line.points()]
    assert points, f"nothing to draw in {panel.title!r}"
    heights = [value for _, *values in points for value in values if value is not None]
    if panel.log_y:
        heights = [value for value in heights if value > 0]
    across = _range([point[0] for point in points], panel.log_x, margin=0.0)
    up = _range(heights, panel.log_y, margin=0.06)
    return (
        _Axis(*across, _LEFT, WIDTH - _RIGHT, panel.log_x),
        _Axis(*up, HEIGHT - _BOTTOM, _TOP, panel.log_y),
    )


def _range(values: Sequence[float], log: bool, margin: float) -> tuple[float, float]:
    """From the least to the greatest value and a little further; never empty."""
    low, high = min(values), max(values)
    if log:
        room = (high / low) ** margin if high > low else 2.0
        return low / room, high * room
    room = (high - low) * margin if high > low else 0.5 * abs(high) or 0.5
    return low - room, high + room


def _grid(x: _Axis, y: _Axis) -> Iterator[str]:
    for tick in y.ticks():
        at = f"{y.px(tick):.1f}"
        yield f'<path d="M{x.first_px} {at} H{x.last_px}" stroke="{_PALE}"/>'
        yield f'<text x="{x.first_px - 6}" y="{at}" dy="4" text-anchor="end">{tick:g}</text>'
    for tick in x.ticks():
        at = f"{x.px(tick):.1f}"
        yield f'<path d="M{at} {y.first_px} v5" stroke="{_INK}"/>'
        yield f'<text x="{at}" y="{y.first_px + 18}" text-anchor="middle">{tick:g}</text>'
    yield f'<path d="M{x.first_px} {y.last_px} V{y.first_px} H{x.last_px}" fill="none" stroke="{_INK}"/>'


def _line(line: Line, x: _Axis, y: _Axis, colour: str) -> Iterator[str]:
    points = [point for point in line.points() if not y.log or point[1] > 0]
    places = [(f"{x.px(at):.1f}", f"{y.px(value):.1f}") for at, value, _, _ in points]
    joined = " ".join(f"{left},{top}" for left, top in places)
    yield f'<polyline points="{joined}" fill="none" stroke="{colour}" stroke-width="2"/>'
    for (at, value, low, high), (left, top) in zip(points, places, strict=True):
        if low is not None and high is not None:
            yield f'<path d="M{left} {y.px(low):.1f} V{y.px(high):.1f}" stroke="{colour}" stroke-width="1.4"/>'
        if len(points) <= 40:
            title = f"<title>{escape(line.name)}: {at:g}, {value:.4g}</title>"
            yield f'<circle cx="{left}" cy="{top}" r="3" fill="{colour}">{title}</circle>'


def _log(value: float) -> float:
    return math.log10(value)
