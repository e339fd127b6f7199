"""The tree of windows as a picture (SVG): levels, strides, crop, given frames, and the rounds in which windows run.

Drawn from the same plan and the same schedule that generation uses, so it cannot say anything else.
"""

from collections.abc import Mapping, Sequence
from html import escape

from nuwa.generate.ready_windows import ReadyWindows
from nuwa.hierarchy import Window, plan, strides

_INK, _PALE, _PAPER, _LINK = "#28282f", "#8a8a96", "#ffffff", "#d5d5de"
_COLOURS = ("#2f6fb2", "#c2571a", "#3d8b46", "#7a4fa3")
"""One per level, the global one first; deeper ones begin again."""
_LEFT, _RIGHT, _TOP, _ROW, _BAR, _FOOT = 150, 24, 44, 96, 22, 58


def rounds(levels: Sequence[Sequence[Window]], length: int, size: int) -> dict[Window, int]:
    """The round, from 1, in which each window runs when at most `size` windows of one level run at once."""
    ready, found, number = ReadyWindows(levels, length, size), dict[Window, int](), 0
    while windows := ready.take():
        number += 1
        for window in windows:
            found[window] = number
            ready.done(window)
    return found


def draw_tree(num_frames: int, length: int, depth: int | None = None, batch: int = 4, width: int = 1000) -> str:
    """SVG of the windows of a video, `width` px wide; the number in a window is its round of at most `batch` windows.

    Full dots are frames that a window makes, rings are frames that it is given. Frames past the end are pale.
    """
    levels = plan(num_frames, length, depth)
    shown = max(window.last(length) for level in levels for window in level) + 1
    step = (width - _LEFT - _RIGHT) / max(1, shown - 1)
    picture = _Picture(num_frames, length, step, rounds(levels, length, batch))
    rows = zip(levels, strides(length, len(levels)), strict=True)
    parts = [picture.row(number, windows, stride) for number, (windows, stride) in enumerate(rows)]
    height = _TOP + _ROW * len(levels) + _FOOT
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
            f'height="{height}" font-family="Helvetica, Arial, sans-serif" font-size="12">',
            f'<rect width="{width}" height="{height}" rx="8" fill="{_PAPER}"/>',
            *picture.links(levels),
            *parts,
            picture.axis(len(levels), shown),
            "</svg>",
            "",
        ]
    )


class _Picture:
    """Places of frames and windows on the page."""

    def __init__(self, num_frames: int, length: int, step: float, in_round: Mapping[Window, int]) -> None:
        self.num_frames, self.length, self.step, self.in_round = num_frames, length, step, in_round

    def row(self, level: int, windows: Sequence[Window], stride: int) -> str:
        """One level: its name and its windows; every other one a little lower, since neighbours share a frame."""
        name = "global" if level == 0 else f"level {level}"
        count = f"{len(windows)} window{'s' if len(windows) > 1 else ''}, stride {stride}"
        top = self._top(level)
        label = (
            f'<text x="16" y="{top + 12}" font-weight="bold" fill="{_colour(level)}">{escape(name)}</text>'
            f'<text x="16" y="{top + 28}" fill="{_INK}">{count}</text>'
        )
        return "\n".join([label, *(self._window(window) for window in windows)])

    def links(self, levels: Sequence[Sequence[Window]]) -> list[str]:
        """From the two frames that a window begins with down to the window."""
        drawn = []
        for window in (window for level in levels[1:] for window in level):
            upper, below = self._top(window.level - 1) + _BAR + 6, self._window_top(window)
            left, right = self._x(window.first), self._x(window.last(self.length))
            drawn.append(
                f'<path d="M{left:.1f} {upper} L{left:.1f} {below} L{right:.1f} {below} L{right:.1f} {upper}" '
                f'fill="{_LINK}" fill-opacity="0.35" stroke="{_LINK}" stroke-width="0.7"/>'
            )
        return drawn

    def axis(self, num_levels: int, shown: int) -> str:
        """Frame numbers of the finished video, and where it ends."""
        y = _TOP + _ROW * num_levels + 6
        end = self._x(self.num_frames - 1)
        wanted = [0, *range(10, shown, 10)] if shown <= 120 else [0, *range(50, shown, 50)]
        numbers = [
            f'<text x="{self._x(n):.1f}" y="{y + 18}" text-anchor="middle" fill="{_PALE}">{n}</text>' for n in wanted
        ]
        cropped = shown > self.num_frames
        note = f"{self.num_frames} frames" + ("; what lies beyond is thrown away" if cropped else "")
        border = f'<path d="M{end:.1f} {_TOP - 12} V{y}" stroke="{_INK}" stroke-dasharray="3 3"/>'
        return "\n".join(
            [
                f'<path d="M{self._x(0):.1f} {y} H{end:.1f}" stroke="{_INK}" stroke-width="2"/>',
                *([border] if cropped else []),
                *numbers,
                f'<text x="16" y="{y + 4}" fill="{_INK}">finished video</text>',
                f'<text x="{self._x(0):.1f}" y="{y + 38}" fill="{_INK}">{note}. '
                "Rings are given, dots are made; the number is the round in which a window runs.</text>",
            ]
        )

    def _window(self, window: Window) -> str:
        colour, top = _colour(window.level), self._window_top(window)
        left, right = self._x(window.first), self._x(window.last(self.length))
        frames = [
            self._frame(number, place in (0, self.length - 1) and window.level > 0, colour, top + _BAR / 2)
            for place, number in enumerate(window.frames(self.length))
        ]
        middle = (left + right) / 2
        return "\n".join(
            [
                f'<rect x="{left - 3:.1f}" y="{top}" width="{right - left + 6:.1f}" height="{_BAR}" rx="5" '
                f'fill="{_PAPER}" stroke="{colour}" stroke-width="1.2"/>',
                *frames,
                f'<text x="{middle:.1f}" y="{top - 3}" text-anchor="middle" font-size="10" '
                f'fill="{colour}">{self.in_round[window]}</text>',
            ]
        )

    def _frame(self, number: int, given: bool, colour: str, y: float) -> str:
        radius = min(3.4, max(0.8, self.step * 0.4))
        ink = colour if number < self.num_frames else _LINK
        fill = _PAPER if given else ink
        return f'<circle cx="{self._x(number):.1f}" cy="{y}" r="{radius:.2f}" fill="{fill}" stroke="{ink}"/>'

    def _x(self, frame: int) -> float:
        return _LEFT + frame * self.step

    def _top(self, level: int) -> float:
        return _TOP + _ROW * level

    def _window_top(self, window: Window) -> float:
        return self._top(window.level) + window.index % 2 * (_BAR + 8)


def _colour(level: int) -> str:
    return _COLOURS[level % len(_COLOURS)]
