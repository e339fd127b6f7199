"""Which packets a copy takes: worked examples of every reordering, and every random one against brute force."""

import itertools
import random

import pytest

from curation.stream_copy import CopyPlan, PacketTimes, decoding_times, plan_both_ends, plan_copy


def packets(text: str) -> list[PacketTimes]:
    """Decode order, e.g. "K0 4 2 h3 x1": K key, h hidden, x trimmed by an edit list."""
    return [
        PacketTimes(int(word.lstrip("Khx")), "K" in word, "h" not in word, "x" in word) for word in text.split()
    ]  # fmt: skip


def frames(plan: CopyPlan | None) -> list[int]:
    return list(plan.frame_pts) if plan else []


@pytest.mark.parametrize(
    ("order", "span", "copied", "end"),
    [
        ("K0 1 2 3 K4 5 6 7", (0, 8), [0, 1, 2, 3, 4, 5, 6, 7], 8),  # all of it
        ("K0 1 2 3 K4 5 6 7", (0, 6), [0, 1, 2, 3, 4, 5], 6),  # without reordering the end needs no key frame
        ("K0 1 2 3 K4 5 6 7", (1, 7), [4, 5, 6], 7),  # the start does
        ("K0 1 2 3 K4 5 6 7", (1, 4), [], None),  # none inside
        ("K0 4 2 1 3 8 6 5 7", (0, 7), [0, 1, 2, 3, 4], 5),  # 5 and 6 need 8
        ("K0 4 2 1 3 8 6 5 7", (0, 4), [0], 1),
        ("K0 4 9 2 1 3 8", (0, 9), [0], 1),  # 4 is in, but 1 to 3 come after 9
        ("K0 2 1 K6 4 3 5 8 7", (0, 9), [0, 1, 2, 3, 4, 5, 6, 7, 8], 9),  # open GOP inside
        ("K0 2 1 K6 4 3 5 8 7", (2, 9), [6, 7, 8], 9),  # its leading pictures 3 to 5 are left out
        ("K0 2 1 K6 4 3 5 8 7", (5, 8), [6], 7),
        ("K0 h3 1 2 3 K6 7", (0, 6), [0, 1, 2, 3], 6),  # a hidden frame is no gap and no frame
        ("K0 x1 2 K3 4", (0, 5), [0], 2),  # what an edit list takes away would show in a copy
        ("Kx0 x1 K2 3", (0, 4), [2, 3], 4),
        ("K5", (5, 6), [5], 6),
        ("", (0, 1), [], None),
    ],
)
def test_plan(order: str, span: tuple[int, int], copied: list[int], end: int | None) -> None:
    plan = plan_copy(packets(order), *span)
    assert frames(plan) == copied
    assert (plan.end_pts if plan else None) == end


def test_a_frame_is_shown_until_the_next() -> None:
    plan = plan_copy(packets("K10 30 20 K70"), 0, 55)
    assert plan is not None
    assert plan.durations() == {10: 10, 20: 10, 30: 25}


def random_stream(rng: random.Random) -> list[PacketTimes]:
    """Groups of pictures with any reordering inside, the later ones also with leading pictures."""
    order: list[PacketTimes] = []
    first = 0
    for _ in range(rng.randrange(1, 5)):
        size = rng.randrange(1, 9)
        key = first + (rng.randrange(size) if order and rng.random() < 0.5 else 0)
        leading = [n for n in range(first, first + size) if n < key]
        trailing = [n for n in range(first, first + size) if n > key]
        rng.shuffle(leading)
        rng.shuffle(trailing)
        order.append(PacketTimes(key, True))
        order += [PacketTimes(n, False) for n in (*leading, *trailing)]
        first += size
    return order


def brute_force(order: list[PacketTimes], start: int, end: int) -> list[int]:
    """Try every prefix after the first key frame inside."""
    keys = [n for n, p in enumerate(order) if p.is_key and start <= p.pts < end]
    if not keys:
        return []
    begin = order[keys[0]].pts
    best: list[int] = []
    for stop in range(keys[0] + 1, len(order) + 1):
        shown = sorted(p.pts for p in order[keys[0] : stop] if p.pts >= begin)
        if shown == list(range(begin, begin + len(shown))) and shown[-1] < end:
            best = max(best, shown, key=len)
    return best


def test_any_order_against_brute_force() -> None:
    rng = random.Random(0)
    for _ in range(3000):
        order = random_stream(rng)
        start, end = sorted(rng.sample(range(len(order) + 1), 2))
        assert frames(plan_copy(order, start, end)) == brute_force(order, start, end), (order, start, end)


def test_decoding_times_rise_and_are_never_late() -> None:
    rng = random.Random(1)
    for _ in range(500):
        order = [p.pts * 40 for p in random_stream(rng)]
        times = decoding_times(order)
        assert len(times) == len(order)
        assert all(a < b for a, b in itertools.pairwise(times))
        assert all(time <= pts for time, pts in zip(times, order, strict=True))
    assert decoding_times([0, 4, 2, 1, 3]) == [-2, -1, 0, 1, 2]
    assert decoding_times([7]) == [7]


def test_both_ends() -> None:
    order = packets("K0 1 2 K3 4 5 K6 7")
    assert plan_both_ends(order, 1, 7) == (3, 6)
    assert plan_both_ends(order, 0, 6) == (0, 6)
    assert plan_both_ends(order, 1, 5) is None
    assert plan_both_ends(order, 0, 8) == (0, 6)
