"""Windows of L frames at every stride of the hierarchy, cut from run files, by index (NUWA-XL Sec. 3.3).

Map-style: window `index` is the same on every machine and in every worker. Which windows a training step reads
is an integer function of (seed, step, rank), so that training resumes exactly where it stopped.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from torch.utils.data import Dataset, Sampler

from nuwa.data.encoded_windows import EncodedWindows, WindowLatents
from nuwa.data.images import ImageRows
from nuwa.data.runs import Captions, Frames, FrameStore, Run
from nuwa.data.tables import DataError


@dataclass(frozen=True, kw_only=True)
class WindowSample:
    """One window of a run, or a row of images, which know nothing of each other.

    frames: uint8 (t h w c), RGB. prompts: one per frame. level: 0 = global. stride: frames between neighbours.
    fps: frame rate of the run (1/s). motion_score: 1/s, of the frame height; NaN when unknown.
    clip_ids, captions: of the clip that shows each frame; its prompt was chosen from the captions.
    mixes_frames: False for images; their level is one more than the last, their stride 1, fps and motion unknown.
    latents: the window as it was encoded before; there are then no frames (t = 0).
    """

    index: int
    level: int
    stride: int
    frames: Frames
    prompts: tuple[str, ...]
    fps: float
    motion_score: float
    clip_ids: tuple[str, ...] = ()
    captions: tuple[Captions, ...] = ()
    mixes_frames: bool = True
    latents: WindowLatents | None = None


class WindowDataset(Dataset[WindowSample]):
    """Every window of `length` frames at each of `strides` (level 0 first), its first frame a multiple of `hop`.

    encoded: the same windows as latents, which samples then carry in place of frames
    images: rows of `length` single frames (`ImageRows`) follow as one more level; not together with `encoded`
    Raises DataError when no run is long enough for one of the strides: it names the stride and what is missing.
    """

    def __init__(
        self,
        runs: Sequence[Run],
        *,
        length: int,
        strides: Sequence[int],
        hop: int = 1,
        cache_bytes: int = 2**30,
        encoded: EncodedWindows | None = None,
        images: bool = False,
    ) -> None:
        self.runs, self.length, self.strides, self.hop = list(runs), length, tuple(strides), hop
        self.encoded = encoded
        self.store = FrameStore(cache_bytes)
        self._ends = [self._count_up_to(stride) for stride in self.strides]
        self.images = ImageRows(self.runs, length=length, hop=hop) if images else None
        of_images = () if self.images is None else (len(self.images),)
        self.counts = (*(int(ends[-1]) for ends in self._ends), *of_images)
        self._check()

    def _count_up_to(self, stride: int) -> npt.NDArray[np.int64]:
        """Windows at `stride` in the first run, the first two, and so on."""
        room = [run.num_frames - (self.length - 1) * stride for run in self.runs]
        return np.cumsum([max(0, -(-starts // self.hop)) for starts in room], dtype=np.int64)

    def _check(self) -> None:
        longest = max(run.num_frames for run in self.runs)
        for stride, count in zip(self.strides, self.counts, strict=False):
            needed = (self.length - 1) * stride + 1
            if count == 0:
                raise DataError(
                    f"no run is long enough for stride {stride}: {self.length} frames span {needed}, the longest of "
                    f"{len(self.runs)} runs has {longest} ({needed - longest} missing); "
                    "curate longer shots, or train with a smaller depth or length"
                )
        if self.counts[-1] == 0:
            raise DataError(
                f"runs hold fewer than {self.length} frames at hop {self.hop}, a row of images; lower --hop"
            )

    def __len__(self) -> int:
        return sum(self.counts)

    def level_of(self, index: int) -> int:
        """Level of window `index`: windows are numbered level by level, then run by run, then in time."""
        return int(np.searchsorted(np.cumsum(self.counts), index, side="right"))

    def locate(self, index: int) -> tuple[int, Run, int]:
        """Level, run and first frame of window `index`, or of the first image of that row."""
        level, places = self.places(index)
        return level, *places[0]

    def places(self, index: int) -> tuple[int, list[tuple[Run, int]]]:
        """Level of window `index`, and run and number of each of its frames."""
        if not 0 <= index < len(self):
            raise IndexError(f"window {index} of {len(self)}")
        level = self.level_of(index)
        inside = index - sum(self.counts[:level])
        if self.images is not None and level == len(self.strides):
            return level, self.images.places(inside)
        ends, stride = self._ends[level], self.strides[level]
        run = int(np.searchsorted(ends, inside, side="right"))
        first = (inside - (int(ends[run - 1]) if run else 0)) * self.hop
        return level, [(self.runs[run], first + n * stride) for n in range(self.length)]

    def describe(self, index: int) -> str:
        """Where window `index` comes from, for messages: run, first frame and clips."""
        level, places = self.places(index)
        clips = dict.fromkeys(run.clip_id(number) for run, number in places)
        run, first = places[0]
        source = f"{run.run_id} from frame {first}" if level < len(self.strides) else "images"
        return f"{source} (clips {' '.join(clips)})"

    def __getitem__(self, index: int) -> WindowSample:
        level, places = self.places(index)
        of_images = level == len(self.strides)
        run, first = places[0]
        numbers = [number for _, number in places]
        stride = 1 if of_images else self.strides[level]
        return WindowSample(
            index=index,
            level=level,
            stride=stride,
            frames=self.frames(index) if self.encoded is None else np.empty((0, 0, 0, 3), np.uint8),
            prompts=tuple(run.prompt(number) for run, number in places),
            # A picture has neither rate nor motion: both are not known.
            fps=math.nan if of_images else run.train_fps,
            motion_score=math.nan if of_images else run.motion_score(numbers),
            clip_ids=tuple(run.clip_id(number) for run, number in places),
            captions=tuple(run.captions_at(number) for run, number in places),
            mixes_frames=not of_images,
            latents=None if self.encoded is None else self.encoded.read(run, first, stride),
        )

    def frames(self, index: int) -> Frames:
        """Frames of window `index` from its run files, uint8 (t h w c), also where samples carry latents."""
        level, places = self.places(index)
        if level == len(self.strides):
            return np.concatenate([self.store.read(run, [number]) for run, number in places])
        return self.store.read(places[0][0], [number for _, number in places])


@dataclass(frozen=True, kw_only=True)
class Order:
    """The windows of every training step as integers.

    counts: windows per level. pattern: the levels that draws take in turn, e.g. (0, 1, 1) for twice as many
    local windows as global ones. Draws of one level walk through a fresh permutation of its windows each epoch.
    """

    counts: tuple[int, ...]
    pattern: tuple[int, ...]
    batch: int
    seed: int = 0
    world: int = 1

    def draws(self, step: int, rank: int = 0) -> range:
        """Numbers of the draws that make the batch of `rank` at `step`; no number occurs twice in a training."""
        first = (step * self.world + rank) * self.batch
        return range(first, first + self.batch)

    def index(self, draw: int) -> int:
        """Window that draw number `draw` takes."""
        turn, place = divmod(draw, len(self.pattern))
        level = self.pattern[place]
        number = turn * self.pattern.count(level) + self.pattern[:place].count(level)
        epoch, position = divmod(number, self.counts[level])
        shuffled = _permutation(self.seed, level, epoch, self.counts[level])
        return sum(self.counts[:level]) + int(shuffled[position])

    def indices(self, step: int, rank: int = 0) -> list[int]:
        """Windows of the batch of `rank` at `step`."""
        return [self.index(draw) for draw in self.draws(step, rank)]


@lru_cache(maxsize=8)
def _permutation(seed: int, level: int, epoch: int, count: int) -> npt.NDArray[np.int64]:
    return np.random.default_rng([seed, level, epoch]).permutation(count)


class StepBatches(Sampler[list[int]]):
    """Batch sampler for a DataLoader: the windows of steps `start` … `stop` − 1 of one rank."""

    def __init__(self, order: Order, *, start: int, stop: int, rank: int = 0) -> None:
        self.order, self.start, self.stop, self.rank = order, start, stop, rank

    def __len__(self) -> int:
        return max(0, self.stop - self.start)

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.start, self.stop):
            yield self.order.indices(step, self.rank)
