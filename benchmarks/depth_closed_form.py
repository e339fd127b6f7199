"""Depth and window length in closed form: the recursion with an exact denoiser, so that only the tree can err."""

from collections.abc import Sequence

from benchmarks.plots import Line, Panel
from benchmarks.results import table
from nuwa.evaluate.denoiser_calls import autoregressive_calls
from nuwa.hierarchy import depth_for, plan

GAUSSIAN = ((16, 1), (8, 1), (16, 2), (32, 2), (16, 3), (8, 3), (8, 4), (6, 4), (4, 5))
"""(L, depth). Paper: how depth 1 makes more than L frames is not stated; here: by autoregression with o = 1."""
GAUSSIAN_FRAMES = (16, 226, 1024)
"""Of the paper's columns 16, 256 and 1024; at 226 frames two levels of 16 frames are a whole tree."""
PAPER = (
    ((16, 2), (16, 1), 226, "B-FVD-16 537 and 697 at 256 frames"),
    ((16, 3), (16, 1), 1024, "573 and 719 at 1024 frames"),
    ((16, 3), (16, 2), 226, "542 and 537 at 256 frames, that is no better"),
    ((16, 2), (8, 3), 226, "542 and 674 at 256 frames"),
)
"""Pairs that the paper compares, better one first, or both alike: (L, depth), the same, frames here, what it says."""


def name_of(length: int, depth: int | None = None) -> str:
    """An arm as tables name it."""
    if depth is None:
        return f"L = {length}"
    return f"L = {length}, " + ("autoregression, o = 1" if depth == 1 else f"depth {depth}")


def closed_form(trees: Sequence[tuple[int, int]], lengths: Sequence[int]) -> dict[tuple[int, int, int], float]:
    """(L, depth, frames) → squared Wasserstein-2 distance per frame with a perfect sampler, where the depth reaches."""
    from benchmarks.exact_gaussian import by_autoregression, by_diffusion_over_diffusion, distance_per_frame
    from benchmarks.gaussian_videos import processes

    process, found = processes()[0], dict[tuple[int, int, int], float]()
    for length, depth in trees:
        for frames in lengths:
            if depth == 1:
                made = by_autoregression(process, frames, length, 1, None)
            elif depth < depth_for(frames, length):
                continue
            else:
                made = by_diffusion_over_diffusion(process, frames, length, None, depth)
            found[length, depth, frames] = distance_per_frame(process, made)
    return found


def windows_of(length: int, depth: int, frames: int) -> tuple[int, int]:
    """Windows that run one after another with unlimited workers, and windows in all; times sampler steps, calls."""
    if depth == 1:
        count = autoregressive_calls(frames, length, overlap=1, steps=1)
        return count, count
    return depth, sum(map(len, plan(frames, length, depth)))


def gaussian_lines(found: dict[tuple[int, int, int], float]) -> list[str]:
    """Closed form by depth and length."""
    from benchmarks.gaussian_videos import processes

    lengths = sorted({frames for _, _, frames in found})
    rows = []
    for length, depth in dict.fromkeys((length, depth) for length, depth, _ in found):
        cells = []
        for frames in lengths:
            row, total = windows_of(length, depth, frames) if (length, depth, frames) in found else (0, 0)
            cells.append(f"{found[length, depth, frames]:.4f} ({row}, {total})" if total else "–")
        rows.append([name_of(length, depth), *cells])
    return [
        f"Exact-Gaussian videos ({processes()[0].name}; see that section), perfect sampler: squared Wasserstein-2 "
        "distance to the true law per frame. In brackets windows in a row with unlimited workers, and windows in all; "
        "– where the depth does not reach.",
        "",
        *table(["frames", *map(str, lengths)], rows),
        "",
        *gaussian_verdicts(found),
    ]


def gaussian_verdicts(found: dict[tuple[int, int, int], float]) -> list[str]:
    """The paper's comparisons in closed form, without intervals: nothing is drawn."""
    lines = []
    for better, worse, frames, paper in PAPER:
        if (*better, frames) in found and (*worse, frames) in found:
            first, second = found[*better, frames], found[*worse, frames]
            word = "alike" if abs(first - second) < 0.01 * second else "nearer" if first < second else "**farther**"
            lines.append(
                f"- {name_of(*better)} beside {name_of(*worse)} at {frames} frames: {first:.4f} and {second:.4f}, "
                f"{word} to the truth. Paper: {paper}."
            )
    return lines


def closed_form_panel(found: dict[tuple[int, int, int], float], frames: int) -> Panel:
    """Distance by length of windows, one line per depth."""
    depths = sorted({depth for _, depth, number in found if number == frames})
    lines = []
    for depth in depths:
        lengths = sorted(length for length, of, number in found if (of, number) == (depth, frames))
        name = "autoregression, o = 1" if depth == 1 else f"depth {depth}"
        lines.append(Line(name, lengths, [found[length, depth, frames] for length in lengths]))
    return Panel(
        title=f"Exact-Gaussian videos, {frames} frames",
        x_label="frames of a window",
        y_label="squared W2 per frame",
        lines=lines,
        log_y=True,
    )
