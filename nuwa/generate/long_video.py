"""Diffusion over Diffusion: a global window, then local windows between its frames (NUWA-XL Sec. 3.3).

A window starts as soon as the frames at its two ends exist. Frames are decoded and handed out in order while later
windows still run; what is held in memory does not grow with the length of the video.
"""

import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch

from nuwa.generate.executors import Executor
from nuwa.generate.finished_windows import FinishedWindows
from nuwa.generate.ready_windows import ReadyWindows, spared_windows
from nuwa.generate.streaming_decode import StreamingDecode
from nuwa.generate.windows import FixedFrame, WindowResult, WindowTask
from nuwa.hierarchy import NuwaError, Window, children, parent, plan


@dataclass(frozen=True)
class VideoPlan:
    """All that fixes a video beside weights and `Sampling`.

    prompts: for each level, global first, one prompt per frame of the video
    length: frames of a window (L); depth: number of levels, None = as many as there are lists of prompts
    given: frame number → frame that is given from the start: a first frame, a storyboard, a video to extend. Every
        window keeps the given frames on its grid, so one between the grid points of coarse levels joins where the grid
        is fine enough, at the latest at stride 1. The frame is in the video as its latent decodes. Read when needed:
        a mapping may load its frames on demand.

    NuwaError for prompts that do not fit together or do not fit the depth, a depth that cannot reach the length,
    or a given frame outside the video.
    """

    prompts: tuple[tuple[str, ...], ...]
    length: int
    depth: int | None = None
    given: Mapping[int, FixedFrame] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.prompts or not self.prompts[0]:
            raise NuwaError("a video without prompts cannot be made; give one prompt per frame")
        counts = sorted({len(prompts) for prompts in self.prompts})
        if len(counts) > 1:
            raise NuwaError(f"levels have {counts[0]} and {counts[-1]} prompts; give each one prompt per frame")
        if len(self.levels) != len(self.prompts):
            raise NuwaError(
                f"there are prompts for {len(self.prompts)} levels and the video has {len(self.levels)}; "
                "give one list of prompts per level"
            )
        outside = [frame for frame in self.given if not 0 <= frame < self.num_frames]
        if outside:
            raise NuwaError(
                f"given frame {outside[0]} lies outside the video; its frames are 0 to {self.num_frames - 1}"
            )

    @property
    def num_frames(self) -> int:
        return len(self.prompts[0])

    @cached_property
    def levels(self) -> list[list[Window]]:
        """The windows of the video, one list per level, global first."""
        return plan(self.num_frames, self.length, len(self.prompts) if self.depth is None else self.depth)

    @cached_property
    def given_windows(self) -> frozenset[Window]:
        """Windows that do not run because all that is needed of them is given."""
        return frozenset(spared_windows(self.levels, self.length, self.num_frames, self.given.keys()))

    def prompts_of(self, window: Window) -> tuple[str, ...]:
        """One per frame of the window; frames past the end of a cropped video take the last prompt."""
        prompts = self.prompts[window.level]
        return tuple(prompts[min(frame, len(prompts) - 1)] for frame in window.frames(self.length))


@dataclass(frozen=True)
class Progress:
    """How far a video is; windows of an earlier start count as done, windows that are given do not count at all."""

    windows_done: int
    windows: int
    frames_done: int
    frames: int
    seconds_left: float | None
    """Estimated from this start's batches; None before the first one is done."""
    unit: str = "windows"
    """What is counted beside frames; a clip made in one pass counts sampler steps."""


OnProgress = Callable[[Progress], None]


def _tell_nobody(progress: Progress) -> None:
    pass


def frame_plan(
    prompts: Sequence[str], length: int, depth: int | None = None, given: Mapping[int, FixedFrame] | None = None
) -> VideoPlan:
    """A video of one prompt per frame, the same at all levels, with as few levels as reach it by default."""
    if not prompts:
        raise NuwaError("a video without prompts cannot be made; give one prompt per frame")
    levels = plan(len(prompts), length, depth)
    return VideoPlan((tuple(prompts),) * len(levels), length, len(levels), given or {})


def generate_frames(
    plan: VideoPlan,
    executor: Executor,
    *,
    keep: FinishedWindows | None = None,
    on_progress: OnProgress = _tell_nobody,
) -> Generator[np.ndarray]:
    """Frames of the video, uint8 (H W 3), in order, while later windows still run.

    keep: finished windows go there and are not made again. NuwaError when they cannot be kept or a worker gives up;
    what is finished stays.
    """
    recursion = _Recursion(plan, executor, keep, on_progress)
    stream = StreamingDecode(executor.decode, plan.num_frames, plan.length, threads=executor.in_flight)
    with closing(stream), closing(recursion.latents()) as arriving:
        for latents in arriving:
            yield from recursion.counted(stream.add(latents))
        yield from recursion.counted(stream.rest())


def generate_latents(
    plan: VideoPlan,
    executor: Executor,
    *,
    keep: FinishedWindows | None = None,
    on_progress: OnProgress = _tell_nobody,
) -> torch.Tensor:
    """Scaled latents (c n h w) of the whole video."""
    return torch.cat(list(_Recursion(plan, executor, keep, on_progress).latents()), dim=1)


class _Recursion:
    """One video on its way: what runs, what is ready, and the frames that ready windows start from."""

    def __init__(
        self, video: VideoPlan, executor: Executor, keep: FinishedWindows | None, on_progress: OnProgress
    ) -> None:
        self.video, self.executor, self.keep, self.on_progress = video, executor, keep, on_progress
        windows = [window for level in video.levels for window in level if window not in video.given_windows]
        self.finished = frozenset() if keep is None else frozenset(keep.windows(windows))
        size = executor.batch * executor.in_flight
        spared = spared_windows(video.levels, video.length, video.num_frames, video.given.keys(), self.finished)
        self.skip = self.finished | spared
        self.ready = ReadyWindows(video.levels, video.length, size, given=video.given, skip=self.skip)
        self.num_windows, self.frames_done = len(windows), 0
        self.work = _Work([window for window in windows if window not in self.skip], executor.batch)
        self.batches: deque[list[Window]] = deque()  # taken, not yet submitted
        self.running: dict[Window, WindowTask] = {}
        self.starts_from: dict[Window, dict[int, FixedFrame]] = {}  # of windows that wait for their turn
        self.leaves: dict[Window, torch.Tensor] = {}  # latents (c l h w) whose turn in the video has not come
        self._last_read: tuple[Window, WindowResult] | None = None

    def latents(self) -> Generator[torch.Tensor]:
        """The video's latents in order, (c t h w) at a time: the frames that each window of stride 1 adds."""
        try:
            for leaf in self.video.levels[-1]:
                while not self._is_there(leaf):
                    self._fill()
                    self._collect()
                self._fill()  # so that workers have work while the caller uses these
                yield self._frames_of(leaf)
        except GeneratorExit:  # the caller has enough: what runs is not lost, and no result stays behind
            for window in self.executor.withdraw():
                del self.running[window]
            while self.running:
                self._collect()
            raise

    def counted(self, images: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
        """Pass on `images`, one frame of the video each, and tell of them."""
        for image in images:
            self.frames_done += 1
            yield image
            self._tell()

    def _is_there(self, leaf: Window) -> bool:
        return leaf in self.leaves or leaf in self.finished or leaf in self.video.given_windows

    def _frames_of(self, leaf: Window) -> torch.Tensor:
        """Latents (c t h w) of the frames that `leaf` adds to those of the window before it."""
        first, end = (1 if leaf.index else 0), self.video.num_frames - leaf.first
        if leaf in self.video.given_windows:
            numbers = leaf.frames(self.video.length)[first:end]
            return torch.stack([self.video.given[number].latent for number in numbers], dim=1)
        latents = self._read(leaf).latents if leaf in self.finished else self.leaves.pop(leaf)
        return latents[:, first:end]

    def _fill(self) -> None:
        """Give the executor as many batches as it runs at once; to several workers as many again, so that none
        waits while results are read.
        """
        most = self.executor.in_flight * (1 if self.executor.in_flight == 1 else 2) * self.executor.batch
        while True:
            if not self.batches:
                taken, size = self.ready.take(), self.executor.batch
                self.batches.extend(taken[start : start + size] for start in range(0, len(taken), size))
            if not self.batches or len(self.running) + len(self.batches[0]) > most:
                return
            tasks = [self._task(window) for window in self.batches.popleft()]
            self.running |= {task.window: task for task in tasks}
            self.executor.submit(tasks, pixels=not self._is_leaf(tasks[0].window))

    def _collect(self) -> None:
        for window, result in self.executor.collect():
            task = self.running.pop(window)
            result = _with_given(task, result)
            if self.keep is not None:
                self.keep.write(window, result)
            if self._is_leaf(window):
                self.leaves[window] = result.latents
            else:
                self._hand_down(window, [_frame(result, n) for n in range(self.video.length)])
            self.ready.done(window)
            self.work.done(window)
            self._tell()

    def _task(self, window: Window) -> WindowTask:
        """The window with its ends and with all given frames that lie on its grid."""
        numbers, own = window.frames(self.video.length), self.video.given
        given = {n: own[number] for n, number in enumerate(numbers) if number in own}
        if window.level:
            given = self.starts_from.pop(window, {}) | given
        if window.level and not {0, self.video.length - 1} <= given.keys():
            given = self._ends_on_disk(window) | given
        return WindowTask(window, self.video.prompts_of(window), dict(sorted(given.items())))

    def _hand_down(self, window: Window, frames: list[FixedFrame]) -> None:
        """Give the windows below that are still to run the frames at their ends."""
        for n, child in enumerate(children(window, self.video.levels, self.video.length)):
            if child not in self.skip:
                self.starts_from[child] = {0: frames[n], self.video.length - 1: frames[n + 1]}

    def _ends_on_disk(self, window: Window) -> dict[int, FixedFrame]:
        """The frames at the ends of a window whose parent was finished by an earlier start."""
        above = parent(window, self.video.length)
        assert above is not None
        result, position = self._read(above[0]), above[1]
        return {n: _frame(result, position + n // (self.video.length - 1)) for n in (0, self.video.length - 1)}

    def _read(self, window: Window) -> WindowResult:
        """A finished window; the last one stays in memory, its children follow each other."""
        assert self.keep is not None
        if self._last_read is None or self._last_read[0] != window:
            self._last_read = (window, self.keep.read(window))
        return self._last_read[1]

    def _is_leaf(self, window: Window) -> bool:
        return window.level + 1 == len(self.video.levels)

    def _tell(self) -> None:
        done = self.num_windows - self.ready.left
        frames = (self.frames_done, self.video.num_frames)
        self.on_progress(Progress(done, self.num_windows, *frames, self.work.seconds_left(*frames)))


class _Work:
    """Estimates the time that is left from the time that was needed so far."""

    def __init__(self, windows: Sequence[Window], batch: int) -> None:
        counts: dict[int, int] = {}
        for window in windows:
            counts[window.level] = counts.get(window.level, 0) + 1
        # A window's share of the batches of its level: the global one takes a batch alone.
        self._batches = {level: -(-count // batch) / count for level, count in counts.items()}
        self._left = sum(self._batches[level] * count for level, count in counts.items())
        self._done = 0.0
        self._started = time.monotonic()

    def done(self, window: Window) -> None:
        self._done += self._batches[window.level]
        self._left -= self._batches[window.level]

    def seconds_left(self, frames_done: int, frames: int) -> float | None:
        elapsed_s = time.monotonic() - self._started
        if self._left > 1e-9:
            return elapsed_s * self._left / self._done if self._done else None
        return elapsed_s * (frames - frames_done) / frames_done if frames_done else None


def _with_given(task: WindowTask, result: WindowResult) -> WindowResult:
    """The result with given frames' pixels as they were given: decoded once, by the window that made them."""
    if result.pixels is None or not task.given:
        return result
    pixels = result.pixels.clone()
    for position, frame in task.given.items():
        pixels[:, position] = frame.pixels
    return WindowResult(result.latents, pixels)


def _frame(result: WindowResult, position: int) -> FixedFrame:
    assert result.pixels is not None, "a window that others start from is decoded"
    return FixedFrame(result.latents[:, position].clone(), result.pixels[:, position].clone())
