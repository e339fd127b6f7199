"""What shows where windows meet in a sampled video: adjacent-frame error at their borders over that of the interior."""

from collections.abc import Sequence

import torch

from nuwa.generate.multidiffusion import cuts

Errors = tuple[list[float], list[float]]
"""Mean squared differences of neighbouring frames at borders, and all others."""


def border_errors(video: torch.Tensor, window: int, overlap: int) -> Errors:
    """Of a video (c t h w) made in windows of `window` frames that share `overlap`."""
    differences = video.double().diff(dim=1).square().mean(dim=(0, 2, 3)).tolist()
    count = video.shape[1]
    places = cuts(count, window, overlap)
    ends = {place.start for place in places} | {place.stop for place in places}
    borders = {frame - 1 for frame in ends if 0 < frame < count}
    return (
        [error for number, error in enumerate(differences) if number in borders],
        [error for number, error in enumerate(differences) if number not in borders],
    )


def ratio(errors: Sequence[Errors]) -> float:
    """Borders over interior, over all videos; NaN where one of them is empty or nothing moves."""
    borders, interior = ([error for one in errors for error in one[part]] for part in (0, 1))
    if not borders or not interior or sum(interior) == 0:
        return float("nan")
    return (sum(borders) / len(borders)) / (sum(interior) / len(interior))
