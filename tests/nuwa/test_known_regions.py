"""Masks of training clips: every task in its share, and of each what its name says."""

from collections import Counter

import pytest
import torch

from nuwa.train.known_regions import TaskShares, known_mask, masked

FRAMES, HEIGHT, WIDTH = 7, 16, 24


def masks(count: int, seed: int = 0, frames: int = FRAMES, **shares: float) -> list[torch.Tensor]:
    return [known_mask(TaskShares(**shares), frames, HEIGHT, WIDTH, seed, draw) for draw in range(count)]


def whole_frames(mask: torch.Tensor) -> tuple[bool, ...] | None:
    """The given frames of a mask that gives whole ones; None for another."""
    means = mask.mean(dim=(0, 2, 3))
    return tuple(bool(mean) for mean in means) if bool(((means == 0) | (means == 1)).all()) else None


def box(frame: torch.Tensor) -> tuple[int, int, int, int]:
    """Top, left, height and width of the ones of a frame (H W), which fill a rectangle."""
    rows, columns = frame.any(dim=1).nonzero()[:, 0], frame.any(dim=0).nonzero()[:, 0]
    top, left = int(rows[0]), int(columns[0])
    height, width = int(rows[-1]) + 1 - top, int(columns[-1]) + 1 - left
    assert frame.sum() == height * width
    return top, left, height, width


def test_without_shares_nothing_is_given() -> None:
    assert not any(mask.any() for mask in masks(20))
    assert masks(1)[0].shape == (1, FRAMES, HEIGHT, WIDTH)


def test_tasks_of_whole_frames() -> None:
    first = (True, *[False] * (FRAMES - 1))
    assert {whole_frames(mask) for mask in masks(20, first_frame=1.0)} == {first}
    prefixes = {tuple(frame < count for frame in range(FRAMES)) for count in range(1, FRAMES)}
    assert {whole_frames(mask) for mask in masks(100, prediction=1.0)} == prefixes
    found = [whole_frames(mask) for mask in masks(200, infilling=1.0)]
    assert {sum(given or ()) for given in found} == set(range(1, FRAMES))
    assert len(set(found)) > 50


def test_a_region_is_a_rectangle_of_a_quarter_to_three_quarters_of_each_side() -> None:
    heights, widths, still = set(), set(), 0
    for mask in masks(300, outpainting=1.0):
        boxes = [box(frame) for frame in mask[0]]
        assert len({size[2:] for size in boxes}) == 1
        heights.add(boxes[0][2])
        widths.add(boxes[0][3])
        still += len(set(boxes)) == 1
    assert (min(heights), max(heights)) == (HEIGHT // 4, HEIGHT * 3 // 4)
    assert (min(widths), max(widths)) == (WIDTH // 4, WIDTH * 3 // 4)
    assert 100 < still < 200


def test_a_moving_region_goes_at_constant_speed() -> None:
    moving = [mask for mask in masks(100, outpainting=1.0) if not torch.equal(mask[0, 0], mask[0, -1])]
    for mask in moving:
        places = torch.tensor([box(frame)[:2] for frame in mask[0]]).double()
        line = places[0] + torch.linspace(0, 1, FRAMES, dtype=torch.float64)[:, None] * (places[-1] - places[0])
        assert (places - line).abs().max() <= 0.5


def test_inpainting_gives_what_outpainting_makes() -> None:
    for inside, outside in zip(masks(20, outpainting=1.0), masks(20, inpainting=1.0), strict=True):
        assert torch.equal(inside + outside, torch.ones_like(inside))


def test_cinemagraph_gives_the_first_frame_and_all_but_a_region_of_the_others() -> None:
    for mask, region in zip(masks(20, cinemagraph=1.0), masks(20, outpainting=1.0), strict=True):
        assert mask[0, 0].all()
        assert torch.equal(mask[0, 1:], 1.0 - region[0, 1:])


def test_shares_are_kept() -> None:
    shares = {"first_frame": 0.1, "infilling": 0.2, "inpainting": 0.15, "cinemagraph": 0.25}
    count = 2000
    kinds = Counter[str]()
    for mask in masks(count, **shares):
        given = whole_frames(mask)
        if given is None:
            kinds["cinemagraph" if mask[0, 0].all() else "inpainting"] += 1
        else:
            kinds["text" if not any(given) else "frames"] += 1
    wanted = {"cinemagraph": 0.25, "inpainting": 0.15, "frames": 0.3, "text": 0.3}
    assert {kind: found / count for kind, found in kinds.items()} == pytest.approx(wanted, abs=0.03)


def test_a_mask_depends_on_seed_and_draw_only() -> None:
    torch.manual_seed(1)
    one = masks(20, outpainting=0.5, infilling=0.5)
    torch.manual_seed(2)
    assert all(torch.equal(*pair) for pair in zip(one, masks(20, outpainting=0.5, infilling=0.5), strict=True))
    other = masks(20, seed=1, outpainting=0.5, infilling=0.5)
    assert not all(torch.equal(*pair) for pair in zip(one, other, strict=True))


def test_a_mask_leaves_given_pixels_bitwise_and_zeroes_the_others() -> None:
    video = torch.rand(3, FRAMES, HEIGHT, WIDTH) * 2 - 1
    (mask,) = masks(1, inpainting=1.0)
    known = masked(video, mask)
    inside = mask.bool().expand_as(video)
    assert torch.equal(known.video[inside], video[inside])
    assert not known.video[~inside].any()
    assert torch.equal(known.mask, mask)
