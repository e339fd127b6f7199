"""Windows of a dataset as latents that were encoded once: what a loader reads in place of footage."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nuwa.data.encode_plan import WindowSpec, known_all, known_ends, nothing_known, wanted_pieces
from nuwa.data.latents import Half, LatentFolder, Piece, folder_of
from nuwa.data.run_hashes import RunHashes
from nuwa.data.runs import Run
from nuwa.data.whole_files import LatentsError


@dataclass(frozen=True)
class WindowLatents:
    """One window, encoded, scaled to unit variance: float16 (c t h w).

    mean: of the window. ends: of the same with all but both ends zeroed before, None where it was not encoded
    """

    mean: Half
    ends: Half | None


class EncodedWindows:
    """The windows of `runs` that the autoencoder of hash `vae` encoded into `folder`, all that `spec` asks for.

    remedy: what to do when something is missing; the last words of the message
    Raises LatentsError, one line that says what differs: autoencoder, runs, length, stride, hop, or single windows.
    """

    def __init__(self, folder: Path, vae: str, runs: Sequence[Run], spec: WindowSpec, remedy: str) -> None:
        self.spec, self._remedy = spec, remedy
        self._check_autoencoder(folder, vae)
        self.stored = LatentFolder(folder, vae)
        self._sources = RunHashes(folder).of(runs)
        self._check_runs(runs)
        missing = list(self.stored.missing(wanted_pieces(runs, self._sources, spec)))
        if missing:
            raise self._error(self._what_differs(missing))

    def read(self, run: Run, first: int, stride: int) -> WindowLatents:
        """The window of `run` that begins at frame `first`."""
        source, length = self._sources[run.run_id], self.spec.length
        mean = self.stored.read(source, first, stride, known_all(length))
        assert mean is not None, "all windows are there: the constructor looked"
        return WindowLatents(mean, self.stored.read(source, first, stride, known_ends(length)) if length > 1 else None)

    def nothing(self, run: Run) -> Half:
        """The condition of a window of the size of `run` of which nothing is known (c t h w)."""
        piece = nothing_known(run.height, run.width, self.spec.length)
        latents = self.stored.read(piece.source, 0, piece.stride, piece.mask)
        assert latents is not None, "it is there: the constructor looked"
        return latents

    def _error(self, what: str) -> LatentsError:
        return LatentsError(f"latents {self.stored.folder} {what}; {self._remedy}")

    def _check_autoencoder(self, folder: Path, vae: str) -> None:
        if folder_of(folder, vae).is_dir():
            return
        others = sorted(path.name for path in folder.glob("vae-*"))
        found = f"are of another autoencoder ({', '.join(others)}, not {folder_of(folder, vae).name})"
        raise LatentsError(f"latents {folder} {found if others else 'are not there'}; {self._remedy}")

    def _check_runs(self, runs: Sequence[Run]) -> None:
        lacking = [run.run_id for run in runs if run.run_id not in self._sources]
        if lacking:
            raise self._error(f"lack {len(lacking)} of {len(runs)} runs, the first is {lacking[0]}")

    def _what_differs(self, missing: Sequence[Piece]) -> str:
        length, first = self.spec.length, missing[0]
        lengths = {len(mask) for _, mask in self.stored.kinds()}
        if not lengths:
            return "hold no windows of this autoencoder"
        if length not in lengths:
            return f"hold windows of {_listed(lengths)} frames, not of {length}"
        strides = {stride for stride, mask in self.stored.kinds() if mask == known_all(length)}
        if first.stride not in strides | {0}:
            return f"hold windows of {length} frames at stride {_listed(strides)}, not {first.stride}"
        kind = "windows" if first.mask == known_all(length) else "conditions"
        hop = math.gcd(*self.stored.firsts(*first.key).tolist())
        if hop > self.spec.hop:
            return f"hold {kind} at multiples of {hop} frames only, and hop is {self.spec.hop}"
        count = sum(len(piece.firsts) for piece in missing)
        where = f"frame {first.firsts[0]} of {self._name(first)}, stride {first.stride}"
        return f"lack {count} {kind}, the first at {where}"

    def _name(self, piece: Piece) -> str:
        """The run that a piece is of, as the dataset calls it."""
        named = [run_id for run_id, source in self._sources.items() if source == piece.source]
        return f"run {named[0]}" if named else "no run"


def _listed(numbers: set[int]) -> str:
    return ", ".join(str(number) for number in sorted(numbers, reverse=True))
