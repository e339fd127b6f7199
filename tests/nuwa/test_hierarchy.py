"""Integers of the hierarchy against the numbers printed in NUWA-XL (Sec. 3.3) and against brute force."""

import subprocess
import sys

import pytest

from nuwa.hierarchy import (
    NuwaError,
    Window,
    children,
    depth_for,
    num_frames,
    parent,
    parents,
    plan,
    strides,
    windows_at,
)


def test_frames_and_strides_of_the_paper() -> None:
    assert [num_frames(16, depth) for depth in (1, 2, 3)] == [16, 226, 3376]
    assert strides(16, 3) == [225, 15, 1]
    assert [windows_at(level, 16) for level in range(3)] == [1, 15, 225]
    assert [sum(len(level) for level in plan(num_frames(16, m), 16)) for m in (1, 2, 3)] == [1, 16, 241]


@pytest.mark.parametrize(
    ("frames", "counts"),
    [(16, [1]), (226, [1, 15]), (256, [1, 2, 17]), (1024, [1, 5, 69]), (3376, [1, 15, 225])],
)
def test_cropped_window_counts(frames: int, counts: list[int]) -> None:
    assert [len(level) for level in plan(frames, 16)] == counts


@pytest.mark.parametrize("length", [3, 4, 5, 16])
@pytest.mark.parametrize("frames", [1, 2, 3, 9, 17, 50, 65, 226])
def test_every_frame_is_made_and_no_window_is_idle(length: int, frames: int) -> None:
    levels = plan(frames, length)
    assert set(range(frames)) <= {frame for window in levels[-1] for frame in window.frames(length)}
    for level in levels:
        for window in level[1:]:
            assert window.first < frames - 1


@pytest.mark.parametrize("frames", [17, 50, 65])
def test_ends_of_a_window_are_neighbours_in_its_parent(frames: int) -> None:
    levels = plan(frames, 5, depth=3)
    for window in (window for level in levels[1:] for window in level):
        found = parent(window, 5)
        assert found is not None
        above, position = found
        assert above in levels[window.level - 1]
        assert above.frames(5)[position : position + 2] == window.frames(5)[:: 5 - 1]


@pytest.mark.parametrize("frames", [17, 50, 65])
def test_children_lie_between_the_frames_of_their_parent(frames: int) -> None:
    levels = plan(frames, 5, depth=3)
    for window in (window for level in levels for window in level):
        below = children(window, levels, 5)
        assert [parent(child, 5) for child in below] == [(window, n) for n in range(len(below))]
        numbers = window.frames(5)
        assert window.last(5) == numbers[-1]
        assert all((child.first, child.last(5)) == (numbers[n], numbers[n + 1]) for n, child in enumerate(below))
    assert [sum(len(children(window, levels, 5)) for window in level) for level in levels[:2]] == [
        len(levels[1]),
        len(levels[2]),
    ]


def test_parents_reach_the_global_window() -> None:
    leaf = plan(3376, 16)[2][224]
    assert parents(leaf, 16) == [Window(1, 14, 3150, 15), Window(0, 0, 0, 225)]
    assert parent(Window(0, 0, 0, 225), 16) is None


def test_depth_may_exceed_what_is_needed() -> None:
    assert depth_for(226, 16) == 2
    assert [level[0].stride for level in plan(100, 16, depth=3)] == [225, 15, 1]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: plan(0, 16), "0 frames"),
        (lambda: plan(300, 16, depth=2), "depth of at least 3"),
        (lambda: plan(10, 16, depth=0), "at least 1"),
        (lambda: plan(10, 2), "at least 3"),
        (lambda: strides(16, 0), "at least 1"),
    ],
)
def test_errors_say_the_remedy(call, words: str) -> None:
    with pytest.raises(NuwaError, match=words):
        call()


def test_importing_the_hierarchy_does_not_import_torch() -> None:
    code = "import nuwa.hierarchy, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
