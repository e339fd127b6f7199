"""Runs and windows: the right frames, prompts and scores, by index; the order as integers."""

from pathlib import Path

import numpy as np
import pytest
from torch.utils.data import DataLoader

from nuwa.data.runs import DataError, FrameStore, read_runs
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
