"""A folder of latents: windows that were encoded once, found by (run file hash, first frame, stride, mask, VAE hash).

Below it one folder per autoencoder holds shards, safetensors files of many windows each. A mask is a word with one
digit per frame of the window, 1 where it is known: 1111 is the window, 1001 a condition with both ends, 0000 one
with nothing. Latents are scaled to unit variance and rounded to half precision, as training keeps them in memory.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nuwa.data.whole_files import DamagedFileError, Tensors, open_file, read_about, write_tensors

Half = npt.NDArray[np.float16]

_MAPPED_SHARDS = 4096


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Windows of one run file, `source` by its hash, at one stride under one mask, by their first frames, ascending."""

    source: str
    stride: int
    mask: str
    firsts: tuple[int, ...]

    @property
    def key(self) -> tuple[str, int, str]:
        """What all windows of a piece share."""
        return self.source, self.stride, self.mask


def folder_of(folder: Path, vae: str) -> Path:
    """Where the latents of an autoencoder lie, `vae` being its hash."""
    return folder / f"vae-{vae[:16]}"


def write_shard(path: Path, vae: str, pieces: Sequence[Piece], tensors: Tensors) -> int:
    """Write the latents of `pieces`; the size of the file in bytes.

    tensors: `mean/MASK`, and for whole windows `logvar/MASK`: float16 (n c t h w), in the order of the pieces of MASK
    """
    listed = [[piece.source, piece.stride, piece.mask, list(piece.firsts)] for piece in pieces]
    return write_tensors(path, tensors, {"vae": vae, "pieces": listed})


def read_pieces(path: Path) -> list[Piece]:
    """What a shard holds. Raises DamagedFileError for a file that is cut short or no shard."""
    about = read_about(path)
    try:
        return [
            Piece(source=source, stride=stride, mask=mask, firsts=tuple(firsts))
            for source, stride, mask, firsts in about["pieces"]
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise DamagedFileError(f"{path} is no shard of latents ({error!r}); remove it") from error


@dataclass(frozen=True)
class _Places:
    """Where windows of one key lie: first frames ascending, and for each the number of its shard and its row there."""

    firsts: npt.NDArray[np.int64]
    shards: npt.NDArray[np.int64]
    rows: npt.NDArray[np.int64]


class LatentFolder:
    """The windows in `folder` that the autoencoder of hash `vae` encoded; files are opened when they are read.

    Raises DamagedFileError for a shard that is cut short, unless `damaged` is given, which then takes their paths.
    """

    def __init__(self, folder: Path, vae: str, damaged: list[Path] | None = None) -> None:
        self.folder, self.vae = folder, vae
        self.shards = sorted(folder_of(folder, vae).glob("windows-*.safetensors"))
        self._places = self._index(damaged)
        self._open: dict[int, Any] = {}

    def __getstate__(self) -> dict[str, Any]:
        """For other processes, which open the files themselves."""
        return self.__dict__ | {"_open": {}}

    def _index(self, damaged: list[Path] | None) -> dict[tuple[str, int, str], _Places]:
        found: dict[tuple[str, int, str], list[npt.NDArray[np.int64]]] = {}
        for number, path in enumerate(self.shards):
            try:
                pieces = read_pieces(path)
            except DamagedFileError:
                if damaged is None:
                    raise
                damaged.append(path)
                continue
            for piece, first_row in _with_rows(pieces):
                firsts = np.asarray(piece.firsts, np.int64)
                rows = np.arange(first_row, first_row + len(firsts))
                found.setdefault(piece.key, []).append(np.stack([firsts, np.full_like(firsts, number), rows]))
        return {key: _sorted(parts) for key, parts in found.items()}

    def kinds(self) -> set[tuple[int, str]]:
        """(stride, mask) of all windows that are there."""
        return {(stride, mask) for _, stride, mask in self._places}

    def firsts(self, source: str, stride: int, mask: str) -> npt.NDArray[np.int64]:
        """First frames of the windows that are there, ascending."""
        places = self._places.get((source, stride, mask))
        return np.empty(0, np.int64) if places is None else places.firsts

    def missing(self, wanted: Iterable[Piece]) -> Iterator[Piece]:
        """What of `wanted` is not there."""
        for piece in wanted:
            absent = np.setdiff1d(piece.firsts, self.firsts(*piece.key))
            if len(absent):
                yield replace(piece, firsts=tuple(absent.tolist()))

    def read(self, source: str, first: int, stride: int, mask: str, moment: str = "mean") -> Half | None:
        """Scaled latents of one window (c t h w), or their log-variance by `moment` logvar; None if they are not there.

        The files are mapped into memory: only the rows asked for are read from the disk.
        """
        places = self._places.get((source, stride, mask))
        if places is None:
            return None
        place = int(np.searchsorted(places.firsts, first))
        if place == len(places.firsts) or places.firsts[place] != first:
            return None
        row: Half = self._tensor(int(places.shards[place]), f"{moment}/{mask}")[int(places.rows[place])]
        return row

    def _tensor(self, shard: int, name: str) -> Any:
        """A tensor of a shard, of which rows can be read."""
        if shard not in self._open:
            if len(self._open) == _MAPPED_SHARDS:  # a process may map 65 530 files
                self._open.pop(next(iter(self._open)))
            self._open[shard] = (open_file(self.shards[shard]), {})
        file, tensors = self._open[shard]
        if name not in tensors:
            tensors[name] = file.get_slice(name)
        return tensors[name]


def _with_rows(pieces: Sequence[Piece]) -> Iterator[tuple[Piece, int]]:
    """Each piece of a shard with the row of its first window among those of its mask."""
    rows: dict[str, int] = {}
    for piece in pieces:
        yield piece, rows.get(piece.mask, 0)
        rows[piece.mask] = rows.get(piece.mask, 0) + len(piece.firsts)


def _sorted(parts: Sequence[npt.NDArray[np.int64]]) -> _Places:
    """Places by ascending first frame; a window that lies in two shards counts once."""
    firsts, shards, rows = np.concatenate(parts, axis=1)
    firsts, chosen = np.unique(firsts, return_index=True)
    return _Places(firsts, shards[chosen], rows[chosen])
