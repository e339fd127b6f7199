"""What is to be encoded: windows and conditions of runs, cut into tasks that each leave one shard. Integers only."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from nuwa.data.latents import Piece
from nuwa.data.runs import Run
from nuwa.hierarchy import strides

SHARD_BYTES = 16 * 2**20
"""About this much is in a shard: what a killed worker loses, against the number of files."""
_LEAST_SHARD_BYTES = 2**20
_TASKS = 8
"""Tasks of a small job, so that several workers share it."""


@dataclass(frozen=True, kw_only=True)
class WindowSpec:
    """Windows of `length` frames that begin at multiples of `hop`, and the masks wanted of them at each stride.

    nothing: whether the condition with nothing known, which all windows share, is wanted too
    """

    length: int
    hop: int
    masks_at: tuple[tuple[int, tuple[str, ...]], ...]
    nothing: bool


def window_spec(length: int, hop: int, at_levels: Mapping[int, int], *, conditions: bool) -> WindowSpec:
    """What mtd learns from at `at_levels`, levels with their strides: every window, and with `conditions` their own.

    The condition of the global level knows nothing, that of a local one both ends (NUWA-XL Sec. 3.2).
    """
    both = (known_all(length), known_ends(length)) if conditions else (known_all(length),)
    at = tuple((stride, both if level > 0 else both[:1]) for level, stride in at_levels.items())
    return WindowSpec(length=length, hop=hop, masks_at=at, nothing=conditions)


def stride_of_level(levels: Literal["global", "local", "all"], length: int, depth: int) -> dict[int, int]:
    """The levels that are meant, each with its stride."""
    all_strides = dict(enumerate(strides(length, depth)))
    return {level: stride for level, stride in all_strides.items() if levels in ("all", "local" if level else "global")}


def frame_spec(hop: int) -> WindowSpec:
    """What the image stage learns from: single frames."""
    return WindowSpec(length=1, hop=hop, masks_at=((1, (known_all(1),)),), nothing=False)


def known_all(length: int) -> str:
    """The mask of a window itself."""
    return "1" * length


def known_ends(length: int) -> str:
    """The mask of a window of which both ends are known."""
    return "1" + "0" * (length - 2) + "1"


def known_none(length: int) -> str:
    """The mask of a window of which nothing is known."""
    return "0" * length


def window_starts(num_frames: int, length: int, stride: int, hop: int) -> range:
    """First frames of all windows of a run."""
    return range(0, max(0, num_frames - (length - 1) * stride), hop)


def wanted_pieces(runs: Sequence[Run], sources: Mapping[str, str], spec: WindowSpec) -> Iterator[Piece]:
    """All windows of `runs`, run by run; two runs of the same bytes count once. `sources`: file hash by run_id."""
    seen: set[str] = set()
    for run in runs:
        source = sources[run.run_id]
        if source in seen:
            continue
        seen.add(source)
        for stride, masks in spec.masks_at:
            starts = tuple(window_starts(run.num_frames, spec.length, stride, spec.hop))
            for mask in masks if starts else ():
                yield Piece(source=source, stride=stride, mask=mask, firsts=starts)
    for height, width in sorted({(run.height, run.width) for run in runs}) if spec.nothing else ():
        yield nothing_known(height, width, spec.length)


def nothing_known(height: int, width: int, length: int) -> Piece:
    """The condition with nothing known: of no run, the same for all of a size, which stands in place of the hash."""
    return Piece(source=f"{height}x{width}", stride=0, mask=known_none(length), firsts=(0,))


@dataclass(frozen=True)
class LatentSize:
    """Shape of one frame's latent."""

    channels: int
    height: int
    width: int

    def bytes_of(self, piece: Piece) -> int:
        """Size of the latents of a piece on the disk: mean, and log-variance of whole windows, in half precision."""
        return len(piece.firsts) * self._bytes_of_window(piece.mask)

    def _bytes_of_window(self, mask: str) -> int:
        moments = 2 if "0" not in mask else 1
        return 2 * moments * len(mask) * self.channels * self.height * self.width

    def windows_in(self, budget_bytes: int, mask: str) -> int:
        """How many windows fit, at least one."""
        return max(1, budget_bytes // self._bytes_of_window(mask))


@dataclass(frozen=True)
class ShardTask:
    """What one worker encodes at a time and leaves as one file. runs: those it reads, by hash of their file."""

    pieces: tuple[Piece, ...]
    runs: Mapping[str, Run]

    @property
    def name(self) -> str:
        """Name of the shard, by what it holds."""
        return f"windows-{hashlib.sha256(repr(self.pieces).encode()).hexdigest()[:16]}.safetensors"

    @property
    def num_windows(self) -> int:
        """Windows and conditions in it."""
        return sum(len(piece.firsts) for piece in self.pieces)


def shard_tasks(
    pieces: Sequence[Piece], runs: Mapping[str, Run], size: LatentSize, shard_bytes: int | None = None
) -> list[ShardTask]:
    """Cut `pieces`, in their order, into tasks of about `shard_bytes` each; `runs` by hash of their file."""
    if shard_bytes is None:
        total = sum(size.bytes_of(piece) for piece in pieces)
        shard_bytes = min(SHARD_BYTES, max(_LEAST_SHARD_BYTES, total // _TASKS))
    tasks: list[ShardTask] = []
    current: list[Piece] = []
    room = shard_bytes
    for part in _parts(pieces, size, shard_bytes):
        needed = size.bytes_of(part)
        if current and needed > room:
            tasks.append(_task(current, runs))
            current, room = [], shard_bytes
        current.append(part)
        room -= needed
    return [*tasks, _task(current, runs)] if current else tasks


def _parts(pieces: Iterable[Piece], size: LatentSize, shard_bytes: int) -> Iterator[Piece]:
    """Pieces no larger than a shard."""
    for piece in pieces:
        most = size.windows_in(shard_bytes, piece.mask)
        for begin in range(0, len(piece.firsts), most):
            yield replace(piece, firsts=piece.firsts[begin : begin + most])


def _task(pieces: Sequence[Piece], runs: Mapping[str, Run]) -> ShardTask:
    sources = dict.fromkeys(piece.source for piece in pieces)
    return ShardTask(tuple(pieces), {source: runs[source] for source in sources if source in runs})
