"""The order of windows: every promise about batches, order and memory, counted without any network."""

import random
import subprocess
import sys
from collections import Counter

import pytest

from nuwa.generate.ready_windows import ReadyWindows, spared_windows
from nuwa.hierarchy import Window, num_frames, parent, plan

PAPER = [16, 226, 256, 1024, 3376]
ROUNDS = [1, 2, 3, 4, 7, 8, 16, 64, 225, 300]


def run(ready: ReadyWindows, at_once: int = 1, seed: int = 0) -> list[list[Window]]:
    """Run everything, up to `at_once` rounds at the same time, which end window by window in random order."""
    rounds: list[list[Window]] = []
    running: list[list[Window]] = []
    draws = random.Random(seed)
    while ready.left:
        while len(running) < at_once and (taken := ready.take()):
            rounds.append(taken)
            running.append(list(taken))
        assert running, "nothing runs and nothing may run"
        some = draws.choice(running)
        ready.done(some.pop(draws.randrange(len(some))))
        running = [left for left in running if left]
    assert ready.take() == []
    return rounds


def rounds_per_level(rounds: list[list[Window]], depth: int) -> list[int]:
    counts = Counter(taken[0].level for taken in rounds)
    return [counts[level] for level in range(depth)]


@pytest.mark.parametrize("at_once", [1, 3])
@pytest.mark.parametrize("size", ROUNDS)
@pytest.mark.parametrize("frames", PAPER)
def test_rounds_per_level_are_windows_over_round_rounded_up(frames: int, size: int, at_once: int) -> None:
    levels = plan(frames, 16)
    rounds = run(ReadyWindows(levels, 16, size), at_once)
    assert rounds_per_level(rounds, len(levels)) == [-(-len(level) // size) for level in levels]


@pytest.mark.parametrize(("workers", "batch"), [(1, 8), (2, 4), (2, 8), (3, 5), (8, 1), (4, 64)])
@pytest.mark.parametrize("frames", PAPER)
def test_batches_on_workers_take_as_many_turns_as_the_formula_says(frames: int, workers: int, batch: int) -> None:
    """Σ_k ⌈w_k/(K·B)⌉: a round of K·B windows is at most K batches, one per worker, and all but the last are full."""
    levels = plan(frames, 16)
    rounds = run(ReadyWindows(levels, 16, workers * batch))
    assert len(rounds) == sum(-(-len(level) // (workers * batch)) for level in levels)
    batches = Counter(taken[0].level for taken in rounds for _ in range(0, len(taken), batch))
    assert [batches[level] for level in range(len(levels))] == [-(-len(level) // batch) for level in levels]


@pytest.mark.parametrize("case", range(60))
def test_every_window_runs_once_and_after_its_ends_exist(case: int) -> None:
    """Any L, depth, length, round, rounds at once, given frames and finished windows; nothing ever waits for ever."""
    draws = random.Random(case)
    length, depth = draws.randint(3, 7), draws.randint(1, 4)
    frames = draws.randint(1, num_frames(length, depth))
    levels = plan(frames, length, depth)
    windows = [window for level in levels for window in level]
    given = set(draws.sample(range(frames), draws.choice([0, min(frames, 3), frames // 2, frames])))
    finished = set(draws.sample(windows, draws.choice([0, 1, len(windows) // 2])))
    skip = spared_windows(levels, length, frames, given, finished) | finished
    ready = ReadyWindows(levels, length, draws.randint(1, 9), given=given, skip=skip)
    rounds = run(ready, draws.randint(1, 4), case)
    ran = [window for taken in rounds for window in taken]
    assert sorted(ran) == sorted(set(windows) - skip)
    assert all(len({window.level for window in taken}) == 1 for taken in rounds)
    for number, taken in enumerate(rounds):
        before = {window for earlier in rounds[:number] for window in earlier} | skip
        for window in taken:
            above = parent(window, length)
            ends = {window.first, window.last(length)}
            assert above is None or above[0] in before or ends <= given
    leaves = set(levels[-1]) & (set(ran) | finished)
    shown = {frame for window in leaves for frame in window.frames(length)} | given
    assert shown.issuperset(range(frames))


def test_one_at_a_time_is_depth_first_in_time_order() -> None:
    levels = plan(65, 5)
    order = [window for taken in run(ReadyWindows(levels, 5, 1)) for window in taken]
    assert order[:7] == [levels[0][0], levels[1][0], *levels[2][:4], levels[1][1]]
    assert [window for window in order if window.level == 2] == levels[2]


def test_no_barrier_between_levels() -> None:
    """With rounds of 4 the first leaves run before most windows of the level above have started."""
    levels = plan(num_frames(5, 3), 5)
    ready = ReadyWindows(levels, 5, 1)
    ready.done(ready.take()[0])
    first, second = ready.take(), ready.take()
    assert [first, second] == [[levels[1][0]], [levels[1][1]]]
    ready.done(second[0])  # the later one is done first
    assert ready.take() == [levels[2][4]]


def test_of_the_windows_that_are_ready_the_earliest_go_first_whatever_was_done_first() -> None:
    levels = plan(65, 5)
    ready = ReadyWindows(levels, 5, 2)
    ready.done(ready.take()[0])
    upper = [*ready.take(), *ready.take()]
    for window in reversed(upper):
        ready.done(window)
    assert [window for _ in range(8) for window in ready.take()] == levels[2]


def test_a_round_waits_only_while_more_of_its_level_can_come() -> None:
    levels = plan(50, 5)  # 1, 4, 13 windows
    ready = ReadyWindows(levels, 5, 3)
    ready.done(ready.take()[0])
    upper = ready.take()
    assert upper == levels[1][:3]
    ready.done(upper[0])
    assert ready.take() == levels[2][:3]
    assert ready.take() == [levels[1][3]]  # the last of its level need not wait
    assert ready.take() == []  # one leaf is ready, others are still to come
    for window in (*upper[1:], levels[1][3]):
        ready.done(window)
    rounds = [levels[2][start : start + 3] for start in (3, 6, 9, 12)]
    assert [ready.take() for _ in range(4)] == rounds


@pytest.mark.parametrize("size", [1, 8, 20])
@pytest.mark.parametrize(("frames", "depth"), [(226, 2), (1024, 3), (3376, 3), (10_000, 4), (num_frames(16, 4), 4)])
def test_what_waits_grows_with_depth_and_round_only(frames: int, depth: int, size: int) -> None:
    """At each level below the global one: what came from one round above, and less than a round before."""
    ready, most = ReadyWindows(plan(frames, 16), 16, size), 0
    while ready.left:
        for window in ready.take():
            ready.done(window)
        most = max(most, ready.waiting)
    assert most <= (depth - 1) * (size * 15 + size - 1)


def test_a_window_between_two_given_frames_does_not_wait_for_the_one_above() -> None:
    levels = plan(17, 5)
    ready = ReadyWindows(levels, 5, 1, given={4, 8})
    assert ready.take() == [levels[0][0]]  # what the beginning of the video needs goes first
    assert ready.take() == [levels[1][1]]
    assert ready.take() == []
    ready.done(levels[0][0])
    assert [ready.take() for _ in range(3)] == [[levels[1][0]], [levels[1][2]], [levels[1][3]]]


def test_windows_far_ahead_do_not_run_before_the_beginning() -> None:
    """A storyboard of the second half must not fill the memory with frames whose turn is hours away."""
    given = range(1500, 3376, 15)
    levels = plan(3376, 16)
    order = [window for taken in run(ReadyWindows(levels, 16, 8, given=set(given))) for window in taken]
    leaves = [window.index for window in order if window.level == 2]
    assert max(index - position for position, index in enumerate(leaves)) <= 3 * 8 * 16


@pytest.mark.parametrize("frames", [2, 5, 17, 30, 50, 65])
@pytest.mark.parametrize("seed", range(8))
def test_a_window_is_spared_when_nothing_below_waits_for_it(frames: int, seed: int) -> None:
    draws = random.Random(seed)
    given = set(draws.sample(range(frames), draws.randint(1, frames)))
    levels = plan(frames, 5, 3)
    leaves = {window for window in levels[2] if set(window.frames(5)) & set(range(frames)) <= given}
    finished = set(draws.sample(levels[2], draws.choice([0, 1, len(levels[2]) // 2])))
    spared = spared_windows(levels, 5, frames, given, finished)
    assert spared & set(levels[2]) == leaves - finished
    for window in (*levels[0], *levels[1]):
        below = [child for child in levels[window.level + 1] if parent(child, 5) == (window, child.index % 4)]
        waiting = [child for child in below if child not in spared | finished]
        assert (window in spared) == all({child.first, child.last(5)} <= given for child in waiting)


def test_a_storyboard_of_all_keyframes_replaces_the_global_window() -> None:
    levels = plan(17, 5)
    assert spared_windows(levels, 5, 17, [0, 4, 8, 12, 16]) == {levels[0][0]}
    assert spared_windows(levels, 5, 17, [0, 4, 8, 12]) == set()
    cropped = plan(11, 5)
    assert spared_windows(cropped, 5, 11, [0, 4, 8]) == set()  # the last window below ends at frame 12
    assert spared_windows(cropped, 5, 11, range(11)) == {*cropped[0], *cropped[1]}


def test_a_lost_window_whose_children_are_finished_is_spared() -> None:
    levels = plan(65, 5)
    assert spared_windows(levels, 5, 65, (), levels[2][:4]) == {levels[1][0]}
    assert spared_windows(levels, 5, 65, (), levels[2][:3]) == set()
    assert spared_windows(levels, 5, 65, (), levels[2]) == {*levels[0], *levels[1]}


def test_a_round_of_no_window_is_refused() -> None:
    with pytest.raises(ValueError, match="round of 0 windows"):
        ReadyWindows(plan(17, 5), 5, 0)


def test_it_does_not_import_torch() -> None:
    code = "import nuwa.generate.ready_windows, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
