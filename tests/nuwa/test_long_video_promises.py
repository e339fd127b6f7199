"""What the recursion promises around the networks: given frames, resuming, memory, progress. Counted on a stand-in."""

import gc
import random
from collections.abc import Callable, Sequence
from contextlib import closing
from itertools import chain, islice
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from nuwa.generate import long_video
from nuwa.generate.executors import LocalExecutor
from nuwa.generate.finished_windows import FinishedWindows
from nuwa.generate.long_video import Progress, VideoPlan, frame_plan, generate_frames, generate_latents
from nuwa.generate.streaming_decode import decode_frames
from nuwa.generate.windows import FixedFrame, WindowResult, WindowTask
from nuwa.hierarchy import NuwaError, Window, num_frames, parent
from tests.nuwa.fake_sampler import FakeSampler

LENGTH = 5
PROMPTS = [f"frame {n // 7}" for n in range(50)]  # of the 65 of three levels


def local(batch: int = 4) -> LocalExecutor:
    return LocalExecutor(FakeSampler(batch))


def ran(executor: LocalExecutor) -> dict[Window, WindowTask]:
    return {task.window: task for tasks in executor.sampler.batches for task in tasks}


def a_frame(number: int) -> FixedFrame:
    draw = torch.Generator().manual_seed(1000 + number)
    return FixedFrame(torch.randn(2, 2, 2, generator=draw), torch.rand(3, 4, 4, generator=draw))


class Workers(LocalExecutor):
    """Several batches at once, back in any order, some of them together."""

    def __init__(self, in_flight: int, batch: int, seed: int = 0) -> None:
        super().__init__(FakeSampler(batch))
        self.in_flight = in_flight  # type: ignore[misc]
        self._draws = random.Random(seed)

    def collect(self) -> list[tuple[Window, WindowResult]]:
        done = []
        for _ in range(self._draws.randint(1, len(self._submitted))):
            self._submitted.rotate(self._draws.randrange(len(self._submitted)))
            done += super().collect()
        return done


# Order and workers


@pytest.mark.parametrize(("in_flight", "batch"), [(1, 1), (1, 64), (2, 4), (3, 5), (16, 1)])
def test_batch_workers_and_order_change_nothing(in_flight: int, batch: int) -> None:
    plan = frame_plan(PROMPTS, LENGTH)
    expected = generate_latents(plan, local())
    workers = Workers(in_flight, batch, seed=in_flight)
    assert torch.equal(generate_latents(plan, workers), expected)
    images = np.stack(list(generate_frames(plan, Workers(in_flight, batch))))
    np.testing.assert_array_equal(images, np.stack(list(decode_frames(FakeSampler().decode, expected, LENGTH))))
    assert all(len(tasks) <= batch for tasks in workers.sampler.batches)


@pytest.mark.parametrize("case", range(20))
def test_any_length_depth_window_and_given_frames(case: int) -> None:
    draws = random.Random(case)
    length, depth = draws.randint(3, 8), draws.randint(1, 4)
    frames = draws.randint(1, min(400, num_frames(length, depth)))
    given = {n: a_frame(n) for n in draws.sample(range(frames), draws.choice([0, min(frames, 2), frames // 3, frames]))}
    plan = frame_plan([str(n) for n in range(frames)], length, depth, given)
    one = local(draws.randint(1, 9))
    latents = generate_latents(plan, one)
    assert latents.shape == (2, frames, 2, 2)
    assert all(torch.equal(latents[:, n], frame.latent) for n, frame in given.items())
    assert ran(one).keys() | plan.given_windows == {*chain(*plan.levels)}
    assert torch.equal(generate_latents(plan, Workers(draws.randint(1, 4), draws.randint(1, 9), case)), latents)
    assert len(list(generate_frames(plan, Workers(2, 3, case)))) == frames


def test_frames_travel_with_the_pixels_of_the_window_that_made_them() -> None:
    """A child never sees a keyframe decoded again in other company."""
    executor = local()
    generate_latents(frame_plan(PROMPTS, LENGTH), executor)
    tasks = ran(executor)
    pixels: dict[int, torch.Tensor] = {}
    for window in sorted(tasks):
        if window.level:
            above = parent(window, LENGTH)
            assert above is not None
            for position, frame in tasks[window].given.items():
                number = window.frames(LENGTH)[position]
                assert torch.equal(pixels.setdefault(number, frame.pixels), frame.pixels)
    assert len(pixels) > 10


def test_leaves_are_not_decoded_by_their_windows_and_the_video_once() -> None:
    executor = local()
    plan = frame_plan(PROMPTS, LENGTH)
    list(generate_frames(plan, executor))
    upper = sum(len(level) for level in plan.levels[:-1]) * LENGTH
    chunks = 16  # of 5 frames that share 2: 3 · 15 + 5 = 50
    assert executor.sampler.decoded_frames == upper + chunks * LENGTH


def test_frames_come_while_later_windows_have_yet_to_run() -> None:
    executor = local(batch=1)
    plan = frame_plan(["a star"] * 226, 16)
    with closing(generate_frames(plan, executor)) as frames:
        next(frames)
        assert len(executor.sampler.batches) == 2  # the global window and the first local one


# Prompts


def test_levels_may_have_prompts_of_their_own() -> None:
    prompts = tuple(tuple(f"{level}/{n}" for n in range(17)) for level in range(2))
    executor = local()
    generate_latents(VideoPlan(prompts, LENGTH), executor)
    tasks = ran(executor)
    assert tasks[Window(0, 0, 0, 4)].prompts == tuple(f"0/{n}" for n in (0, 4, 8, 12, 16))
    assert tasks[Window(1, 2, 8, 1)].prompts == tuple(f"1/{n}" for n in (8, 9, 10, 11, 12))


def test_frames_past_the_end_take_the_last_prompt() -> None:
    executor = local()
    generate_latents(frame_plan([str(n) for n in range(11)], LENGTH), executor)
    assert ran(executor)[Window(0, 0, 0, 4)].prompts == ("0", "4", "8", "10", "10")


# Given frames


def test_a_first_frame_is_kept_by_every_window_that_holds_it() -> None:
    frame, executor = a_frame(0), local()
    latents = generate_latents(frame_plan(PROMPTS, LENGTH, given={0: frame}), executor)
    holders = [task for task in ran(executor).values() if task.window.first == 0]
    assert len(holders) == 3
    assert all(task.given[0] is frame for task in holders)
    assert torch.equal(latents[:, 0], frame.latent)
    assert not torch.equal(latents, generate_latents(frame_plan(PROMPTS, LENGTH), local()))


def test_a_given_frame_joins_at_the_levels_whose_grid_it_lies_on() -> None:
    given = {n: a_frame(n) for n in (8, 22)}  # strides are 16, 4, 1
    executor = local()
    generate_latents(frame_plan(PROMPTS, LENGTH, given=given), executor)
    tasks = ran(executor)
    assert tasks[Window(0, 0, 0, 16)].given == {}
    assert tasks[Window(1, 0, 0, 4)].given[2] is given[8]
    assert 22 not in [n for task in tasks.values() if task.window.level == 1 for n in _numbers(task)]
    (holder,) = [task for task in tasks.values() if 22 in _numbers(task)]
    assert holder.window == Window(2, 5, 20, 1)
    assert holder.given[2] is given[22]
    assert sorted(holder.given) == [0, 2, 4]


def _numbers(task: WindowTask) -> list[int]:
    numbers = task.window.frames(LENGTH)
    return [numbers[position] for position in task.given]


def test_a_storyboard_of_all_keyframes_saves_the_global_window() -> None:
    given = {n: a_frame(n) for n in range(0, 65, 16)}
    executor = local()
    generate_latents(frame_plan(["a star"] * 65, LENGTH, given=given), executor)
    assert [task.window.level for task in executor.sampler.batches[0]] == [1, 1, 1, 1]
    assert executor.sampler.batches[0][1].given == {0: given[16], 4: given[32]}


def test_a_video_is_extended_without_making_it_again() -> None:
    """Frames 0 to 29 are given: windows inside do not run, the one across the border keeps its given half."""
    whole = generate_latents(frame_plan(PROMPTS, LENGTH), local())
    given = {n: FixedFrame(whole[:, n], a_frame(n).pixels) for n in range(30)}
    executor = local()
    longer = generate_latents(frame_plan(PROMPTS, LENGTH, given=given), executor)
    assert torch.equal(longer[:, :30], whole[:, :30])
    tasks = ran(executor)
    assert min(window.index for window in tasks if window.level == 2) == 7  # frames 28 to 32
    assert sorted(tasks[Window(2, 7, 28, 1)].given) == [0, 1, 4]
    assert sorted(tasks[Window(0, 0, 0, 16)].given) == [0, 1]


def test_a_video_given_as_a_whole_is_only_decoded() -> None:
    given = {n: a_frame(n) for n in range(30)}
    executor = local()
    images = list(generate_frames(frame_plan(PROMPTS[:30], LENGTH, given=given), executor))
    assert executor.sampler.batches == []
    latents = torch.stack([given[n].latent for n in range(30)], dim=1)
    np.testing.assert_array_equal(np.stack(images), np.stack(list(decode_frames(local().decode, latents, LENGTH))))


@pytest.mark.parametrize("frame", [-1, 50])
def test_a_given_frame_outside_the_video_is_named(frame: int) -> None:
    with pytest.raises(NuwaError, match=f"given frame {frame} lies outside the video; its frames are 0 to 49"):
        frame_plan(PROMPTS, LENGTH, given={frame: a_frame(0)})


# Resuming


class StoppedError(Exception):
    pass


def stop_after(windows: int) -> Callable[[Progress], None]:
    def stop(progress: Progress) -> None:
        if progress.windows_done >= windows:
            raise StoppedError

    return stop


@pytest.mark.parametrize("in_flight", [1, 3])
@pytest.mark.parametrize("windows", [1, 2, 5, 9, 17])
def test_a_stopped_video_goes_on_where_it_was(tmp_path: Path, windows: int, in_flight: int) -> None:
    plan = frame_plan(PROMPTS, LENGTH, given={22: a_frame(22)})
    expected = generate_latents(plan, local())
    with pytest.raises(StoppedError):
        generate_latents(
            plan, Workers(in_flight, 2), keep=FinishedWindows(tmp_path, ""), on_progress=stop_after(windows)
        )
    kept = len(list(tmp_path.glob("*.safetensors")))
    assert kept >= windows
    again = Workers(in_flight, 2, seed=1)
    told: list[Progress] = []
    found = generate_latents(plan, again, keep=FinishedWindows(tmp_path, ""), on_progress=told.append)
    assert torch.equal(found, expected)
    assert len(ran(again)) == 18 - kept
    assert [made.windows_done for made in told] == list(range(kept + 1, 19))


def test_a_finished_video_is_only_decoded_again(tmp_path: Path) -> None:
    plan = frame_plan(PROMPTS, LENGTH)
    first = list(generate_frames(plan, local(), keep=FinishedWindows(tmp_path, "")))
    executor = local()
    second = list(generate_frames(plan, executor, keep=FinishedWindows(tmp_path, "")))
    assert executor.sampler.batches == []
    np.testing.assert_array_equal(np.stack(first), np.stack(second))


@pytest.mark.parametrize("seed", range(6))
def test_whatever_is_lost_or_damaged_is_made_again(tmp_path: Path, seed: int) -> None:
    """Also a window whose children are all there: they stay."""
    plan = frame_plan(PROMPTS, LENGTH)
    expected = generate_latents(plan, local(), keep=FinishedWindows(tmp_path, ""))
    draws = random.Random(seed)
    files = sorted(tmp_path.glob("*.safetensors"))
    gone = draws.sample(files, draws.choice([1, 6, 12]))
    for path in gone:
        path.write_bytes(path.read_bytes()[: draws.choice([0, 100])])
    executor = Workers(2, 2, seed)
    assert torch.equal(generate_latents(plan, executor, keep=FinishedWindows(tmp_path, "")), expected)
    lost = {(window.level, window.index) for window in ran(executor)}
    assert {(level, index) for level, index in map(_key, gone) if level == 2} <= lost <= set(map(_key, gone))


def _key(path: Path) -> tuple[int, int]:
    level, index = path.stem.split("-")
    return int(level), int(index)


def test_who_stops_reading_loses_nothing_that_was_running(tmp_path: Path) -> None:
    executor = Workers(3, 2)
    with closing(generate_frames(frame_plan(PROMPTS, LENGTH), executor, keep=FinishedWindows(tmp_path, ""))) as frames:
        list(islice(frames, 3))
    assert len(list(tmp_path.glob("*.safetensors"))) == len(ran(executor))
    assert not executor._submitted
    latents = generate_latents(frame_plan(PROMPTS[:20], LENGTH), executor)  # the executor serves the next video
    assert torch.equal(latents, generate_latents(frame_plan(PROMPTS[:20], LENGTH), local()))


def test_who_stops_reading_waits_for_no_batch_that_has_not_begun() -> None:
    """On one device a batch runs when it is collected: at the end of a full disk there is none to wait for."""
    executor = local(batch=1)
    with closing(generate_frames(frame_plan(PROMPTS, LENGTH), executor)) as frames:
        next(frames)
        began = len(executor.sampler.batches)
        assert executor._submitted
    assert len(executor.sampler.batches) == began
    assert not executor._submitted


# Progress


def test_progress_counts_windows_and_frames_and_estimates_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five batches of 10 s: the global window, then 15 local ones, 4 at once; the frames take no time."""
    now = [0.0]
    monkeypatch.setattr(long_video, "time", SimpleNamespace(monotonic=lambda: now[0]))

    class Slow(FakeSampler):
        def sample(self, tasks: Sequence[WindowTask], pixels: bool) -> list[WindowResult]:
            now[0] += 10.0
            return super().sample(tasks, pixels)

    told: list[Progress] = []
    plan = frame_plan(["a star"] * 226, 16)
    list(generate_frames(plan, LocalExecutor(Slow(batch=4)), on_progress=told.append))
    assert (told[0].windows_done, told[0].windows, told[0].frames_done, told[0].frames) == (1, 16, 0, 226)
    assert told[0].seconds_left == pytest.approx(40)
    halfway = next(made for made in told if made.windows_done == 9)
    assert halfway.seconds_left == pytest.approx(30 * (7 * 4 / 15) / (1 + 8 * 4 / 15))
    assert told[-1] == Progress(16, 16, 226, 226, 0.0)
    assert [made.frames_done for made in told] == sorted(made.frames_done for made in told)


def test_given_windows_do_not_count_and_finished_ones_do(tmp_path: Path) -> None:
    given = {n: a_frame(n) for n in range(0, 65, 16)}
    plan = frame_plan(["a star"] * 65, LENGTH, given=given)
    told: list[Progress] = []
    generate_latents(plan, local(), keep=FinishedWindows(tmp_path, ""), on_progress=told.append)
    assert {made.windows for made in told} == {20}
    next(tmp_path.glob("2-*3.safetensors")).unlink()
    told.clear()
    generate_latents(plan, local(), keep=FinishedWindows(tmp_path, ""), on_progress=told.append)
    assert [(made.windows_done, made.windows) for made in told] == [(20, 20)]


# Memory


def tensor_bytes() -> int:
    """Bytes of all live tensors made since `gc.freeze()`."""
    tensors = (thing for thing in gc.get_objects() if isinstance(thing, torch.Tensor))
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(storages.values())


def peak(frames: int, executor: LocalExecutor, depth: int, keep: FinishedWindows | None = None) -> int:
    """Most bytes of tensors that were alive at once while all frames of a video were taken."""
    most = 0

    def look(progress: Progress) -> None:
        nonlocal most
        if progress.frames_done % 10 == 0:
            most = max(most, tensor_bytes())

    gc.collect()
    gc.freeze()
    plan = frame_plan(["a star"] * frames, 16, depth)
    assert sum(1 for _ in generate_frames(plan, executor, keep=keep, on_progress=look)) == frames
    gc.unfreeze()
    return most


class Forgetful(FakeSampler):
    """Does not remember what it ran."""

    def sample(self, tasks: Sequence[WindowTask], pixels: bool) -> list[WindowResult]:
        results = super().sample(tasks, pixels)
        self.batches.clear()
        return results


@pytest.mark.parametrize("batch", [1, 8])
@pytest.mark.parametrize(("frames", "depth"), [(226, 2), (1688, 3), (3376, 3), (10_000, 4)])
def test_memory_follows_depth_and_batch_not_the_length(frames: int, depth: int, batch: int) -> None:
    """At each level the ends of windows that one round made ready, the round that runs, and a chunk that decodes."""
    frame_bytes = 4 * (2 * 4 + 3 * 16)  # latent and pixels
    most = peak(frames, LocalExecutor(Forgetful(batch)), depth)
    assert most <= frame_bytes * (16 * batch * depth + 4 * 16)


@pytest.mark.parametrize("lost", [0, 100])
def test_memory_stays_flat_when_a_long_video_goes_on(tmp_path: Path, lost: int) -> None:
    """Finished windows are read when their turn comes, whatever is missing before them."""
    plan = frame_plan(["a star"] * 3376, 16)
    generate_latents(plan, LocalExecutor(Forgetful(64)), keep=FinishedWindows(tmp_path, ""))
    for path in sorted(tmp_path.glob("2-*"))[20 : 20 + lost : 2]:
        path.unlink()
    executor = LocalExecutor(Forgetful(8))
    frame_bytes = 4 * (2 * 4 + 3 * 16)
    assert peak(3376, executor, 3, FinishedWindows(tmp_path, "")) <= frame_bytes * (16 * 8 * 3 + 4 * 16)
