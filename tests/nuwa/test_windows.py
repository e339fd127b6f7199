"""Runs and windows: the right frames, prompts and scores, by index; the order as integers."""

from pathlib import Path

import numpy as np
import pytest
from torch.utils.data import DataLoader

from nuwa.data.images import ImageRows
from nuwa.data.pattern import level_pattern
from nuwa.data.runs import FrameStore, read_runs
from nuwa.data.tables import DataError
from nuwa.data.windows import Order, StepBatches, WindowDataset
from tests.nuwa.tiny_dataset import brightness, write_dataset


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data") / "ds", [60, 25, 12])


def test_frames_are_those_asked_for_whether_cached_or_sought(folder: Path) -> None:
    run = read_runs(folder)[0]
    numbers = [0, 3, 4, 31, 59]
    cached, sought = FrameStore(2**20).read(run, numbers), FrameStore(0).read(run, numbers)
    assert np.array_equal(cached, sought)
    assert cached.shape == (5, 16, 16, 3)
    grey = cached[:, 12, 12].mean(axis=-1)
    assert np.abs(grey - [brightness(number) for number in numbers]).max() < 6


def test_the_budget_limits_what_is_kept(folder: Path) -> None:
    runs = read_runs(folder)
    store = FrameStore(60 * 16 * 16 * 3 + 100)
    for run in runs:
        store.read(run, [0])
    assert store.used_bytes == 60 * 16 * 16 * 3


def test_windows_of_every_run_long_enough_at_every_stride(folder: Path) -> None:
    data = WindowDataset(read_runs(folder), length=4, strides=(9, 3, 1))
    assert data.counts == (60 - 27, (60 - 9) + (25 - 9) + (12 - 9), (60 - 3) + (25 - 3) + (12 - 3))
    assert data.locate(0)[2] == 0
    level, run, first = data.locate(len(data) - 1)
    assert (level, run.run_id, first) == (2, "run-2", 8)
    level, run, first = data.locate(33 + 51)
    assert (level, run.run_id, first) == (1, "run-1", 0)


def test_hop_keeps_multiples_only(folder: Path) -> None:
    data = WindowDataset(read_runs(folder), length=4, strides=(3,), hop=5)
    assert [data.locate(index)[2] for index in range(len(data))] == [*range(0, 51, 5), *range(0, 16, 5), 0]


def test_a_window_carries_prompts_per_frame_and_motion(folder: Path) -> None:
    sample = WindowDataset(read_runs(folder), length=4, strides=(9, 3, 1))[33 + 5]
    assert (sample.level, sample.stride, sample.fps) == (1, 3, 8.0)
    assert sample.prompts == tuple(f"a red star in scene {n}" for n in (0, 1, 1, 2))  # frames 5 8 11 14
    assert sample.motion_score == pytest.approx((0.1 + 0.2 + 0.2) / 3)  # the third clip has none


def test_unknown_motion_is_nan(folder: Path) -> None:
    sample = WindowDataset(read_runs(folder), length=3, strides=(1,))[13]
    assert np.isnan(sample.motion_score)


def test_a_stride_no_run_reaches_is_named_with_what_is_missing(folder: Path) -> None:
    with pytest.raises(DataError, match=r"stride 25: 4 frames span 76, the longest of 3 runs has 60 \(16 missing\)"):
        WindowDataset(read_runs(folder), length=4, strides=(25, 1))


def test_bad_dataset_folders_are_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not a folder"):
        read_runs(tmp_path / "none")
    with pytest.raises(DataError, match="holds no Parquet"):
        read_runs(tmp_path)


def test_a_cut_run_file_is_named(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "ds", [12])
    (folder / "media/runs/run-0.mp4").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"run-0\.mp4 cannot be decoded"):
        FrameStore(0).read(read_runs(folder)[0], [0])


def test_an_epoch_is_a_permutation_and_ranks_share_it() -> None:
    order = Order(counts=(12,), pattern=(0,), batch=2, seed=3, world=2)
    epoch = [index for step in range(3) for rank in range(2) for index in order.indices(step, rank)]
    assert sorted(epoch) == list(range(12))
    later = [index for step in range(3, 6) for rank in range(2) for index in order.indices(step, rank)]
    assert sorted(later) == list(range(12))
    assert later != epoch


def test_levels_take_their_turns() -> None:
    order = Order(counts=(5, 20), pattern=(0, 1, 1), batch=6, seed=0)
    for step in range(4):
        indices = order.indices(step)
        assert [index < 5 for index in indices] == [True, False, False, True, False, False]
    local = [index for step in range(5) for index in order.indices(step) if index >= 5]
    assert sorted(local) == list(range(5, 25))


def test_the_order_is_the_same_with_any_number_of_workers(folder: Path) -> None:
    data = WindowDataset(read_runs(folder), length=4, strides=(9, 1))
    order = Order(counts=data.counts, pattern=(0, 1), batch=3, seed=1)

    def read(workers: int) -> list[tuple[int, float]]:
        batches = StepBatches(order, start=2, stop=6)
        loader = DataLoader(data, batch_sampler=batches, collate_fn=list, num_workers=workers)
        return [(sample.index, float(sample.frames.mean())) for batch in loader for sample in batch]

    alone = read(0)
    assert alone == read(2)
    assert [index for index, _ in alone] == [index for step in range(2, 6) for index in order.indices(step)]


@pytest.mark.parametrize(
    ("shares", "image_frac", "pattern"),
    [
        ([1.0, 1.0, 1.0], 0.0, (0, 1, 2)),
        ([0.2, 0.2], 0.0, (0, 1)),
        ([1, 2], 0.0, (1, 0, 1)),
        ([0.1, 0.3], 0.0, (1, 0, 1, 1)),
        ([1.0], 0.25, (0, 0, 1, 0)),
        ([1.0, 1.0], 0.5, (2, 0, 1, 2)),
    ],
)
def test_levels_take_turns_by_their_shares(shares: list[float], image_frac: float, pattern: tuple[int, ...]) -> None:
    assert level_pattern(shares, image_frac) == pattern


@pytest.mark.parametrize(
    ("shares", "image_frac"), [([0.5, 0.3, 0.2], 0.0), ([1, 3, 15], 0.2), ([0.333, 0.667], 0.0), ([0.05, 0.95], 0.1)]
)
def test_shares_are_exact_in_every_period_and_kept_on_the_way(shares: list[float], image_frac: float) -> None:
    pattern = level_pattern(shares, image_frac)
    wanted = [share / sum(shares) * (1 - image_frac) for share in shares] + [image_frac] * (image_frac > 0)
    for level, share in enumerate(wanted):
        assert pattern.count(level) == pytest.approx(share * len(pattern), abs=1e-9)
        taken = np.cumsum([turn == level for turn in pattern])
        assert np.abs(taken - share * np.arange(1, len(pattern) + 1)).max() < 1.0


def test_crooked_shares_are_refused() -> None:
    with pytest.raises(DataError, match=r"level_shares 0\.33333 0\.66667 .* repeat after 100000 draws; give rounder"):
        level_pattern([0.33333, 0.66667])


SHARED = Order(counts=(7, 30, 11), pattern=level_pattern([1, 3], 0.2), batch=4, seed=5, world=3)


def test_every_window_comes_equally_often_in_every_epoch_of_its_level() -> None:
    """Whatever the shares, and for rows of images alike."""
    taken: dict[int, list[int]] = {0: [], 1: [], 2: []}
    for draw in range(3000):
        index = SHARED.index(draw)
        taken[int(np.searchsorted(np.cumsum(SHARED.counts), index, side="right"))].append(index)
    assert [len(taken[level]) for level in range(3)] == [600, 1800, 600]
    for level, count in enumerate(SHARED.counts):
        epochs = [taken[level][first : first + count] for first in range(0, len(taken[level]) - count + 1, count)]
        assert len(epochs) >= 54
        assert all(sorted(epoch) == sorted(epochs[0]) for epoch in epochs)
        assert len({tuple(epoch) for epoch in epochs}) > 0.9 * len(epochs)


def test_no_window_prefers_a_place_in_the_epoch_nor_a_neighbour() -> None:
    """Chi-square over (window, place) and over (window, next window): 2.6 standard deviations at most."""
    count, epochs = 12, 3000
    order = Order(counts=(count,), pattern=(0,), batch=1, seed=11)
    shuffled = np.array([order.index(draw) for draw in range(count * epochs)]).reshape(epochs, count)
    places = np.stack([np.bincount(shuffled[:, place], minlength=count) for place in range(count)])
    pairs = np.zeros((count, count))
    np.add.at(pairs, (shuffled[:, :-1].ravel(), shuffled[:, 1:].ravel()), 1)
    others = pairs[~np.eye(count, dtype=bool)]
    for found, freedom in ((places, (count - 1) ** 2), (others, others.size - 1)):
        chi_square = ((found - found.mean()) ** 2 / found.mean()).sum()
        assert abs(chi_square - freedom) < 2.6 * np.sqrt(2 * freedom)
    assert pairs.diagonal().sum() == 0


def test_ranks_part_the_order_and_a_resumed_training_goes_on_in_it() -> None:
    alone = Order(counts=SHARED.counts, pattern=SHARED.pattern, batch=12, seed=5)
    for step in (0, 3, 40):
        parts = [SHARED.indices(step, rank) for rank in range(3)]
        assert [index for part in parts for index in part] == alone.indices(step)
    whole = [list(StepBatches(SHARED, start=0, stop=30, rank=rank)) for rank in range(3)]
    resumed = [
        [*StepBatches(SHARED, start=0, stop=17, rank=rank), *StepBatches(SHARED, start=17, stop=30, rank=rank)]
        for rank in range(3)
    ]
    assert whole == resumed
    assert len({draw for step in range(30) for rank in range(3) for draw in SHARED.draws(step, rank)}) == 30 * 12


def test_rows_of_images_hold_every_frame_once_and_of_different_runs_while_there_are_enough(tmp_path: Path) -> None:
    runs = read_runs(write_dataset(tmp_path / "ds", [9, 7, 7, 6, 5]))
    rows = ImageRows(runs, length=4)
    places = [rows.places(row) for row in range(len(rows))]
    assert len(rows) == 34 // 4
    numbers = [(run.run_id, number) for row in places for run, number in row]
    assert len(set(numbers)) == 32
    left = {(run.run_id, number) for run in runs for number in range(run.num_frames)} - set(numbers)
    assert left == {("run-0", 7), ("run-0", 8)}  # fewer than a row, at the end of the longest run
    for row in places:
        if max(number for _, number in row) < 6:  # so far four runs have frames
            assert len({run.run_id for run, _ in row}) == 4
    assert {number for _, number in ImageRows(runs, length=4, hop=3).places(1)} == {0, 3}


def test_a_dataset_with_images_reads_them_as_one_more_level(folder: Path) -> None:
    runs = read_runs(folder)
    plain = WindowDataset(runs, length=4, strides=(9, 3, 1))
    data = WindowDataset(runs, length=4, strides=(9, 3, 1), images=True)
    assert data.counts == (*plain.counts, 97 // 4)
    sample = data[len(plain) + 1]
    assert (sample.level, sample.stride, sample.mixes_frames) == (3, 1, False)
    assert np.isnan([sample.fps, sample.motion_score]).all()
    grey = sample.frames[:, 12, 12].mean(axis=-1)
    assert np.abs(grey - [brightness(number) for number in (1, 1, 2, 2)]).max() < 6
    assert sample.clip_ids == ("clip-1-0", "clip-2-0", "clip-0-0", "clip-1-0")
    assert data.describe(len(plain) + 1) == "images (clips clip-1-0 clip-2-0 clip-0-0)"
    assert plain[40].mixes_frames
    with pytest.raises(DataError, match="fewer than 4 frames at hop 60, a row of images"):
        WindowDataset(read_runs(folder), length=4, strides=(1,), hop=60, images=True)


def test_a_window_says_where_it_comes_from(folder: Path) -> None:
    data = WindowDataset(read_runs(folder), length=4, strides=(9, 3, 1))
    assert data.describe(33 + 5) == "run-0 from frame 5 (clips clip-0-0 clip-0-1 clip-0-2)"
    assert data[33 + 5].clip_ids == ("clip-0-0", "clip-0-1", "clip-0-1", "clip-0-2")
