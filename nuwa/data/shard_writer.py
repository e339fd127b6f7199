"""From run files to one shard of latents: read the frames of a task once, encode its windows, write them. No torch."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from nuwa.data.encode_plan import ShardTask
from nuwa.data.latents import Half, Piece, folder_of, write_shard
from nuwa.data.prompt_tokens import PromptFolder, Tokens
from nuwa.data.runs import DataError, Frames, FrameStore, Run
from nuwa.hierarchy import NuwaError


class Encoder(Protocol):
    """What turns pixels into latents and prompts into tokens; each hash names the weights it does so with.

    windows_at_once: how many windows of a length pass it together
    """

    vae_hash: str
    prompt_hash: str

    def windows_at_once(self, length: int) -> int:
        """How many windows of `length` frames to give at a time."""

    def encode(self, frames: Frames, mask: str) -> tuple[Half, Half]:
        """Mean and log-variance (b c t h w) of scaled latents; frames (b t h w c), those where `mask` is 0 zeroed."""

    def tokens(self, prompts: Sequence[str]) -> Tokens:
        """Tokens of prompts (p n d)."""


@dataclass(frozen=True)
class PromptTask:
    """Prompts that one worker encodes and leaves as one file."""

    prompts: tuple[str, ...]


Task = ShardTask | PromptTask


@dataclass(frozen=True)
class Written:
    """What has become of a task. error: why it could not be done, in one line, and whether others could not either."""

    windows: int = 0
    prompts: int = 0
    error: str | None = None
    hopeless: bool = False


class TaskWorker:
    """Does tasks, and leaves what it makes in `folder`; the networks are loaded once, with the first task."""

    def __init__(self, load: Callable[[], Encoder], folder: Path) -> None:
        self.load, self.folder = load, folder
        self.encoder: Encoder | None = None

    def do(self, task: Task) -> Written:
        """Do one task. What the user must change is told in the result: a damaged run file does not stop the others."""
        try:
            self.encoder = self.encoder or self.load()
            return _write(task, self.encoder, self.folder)
        except NuwaError as error:
            return Written(error=" ".join(str(error).split()), hopeless=not isinstance(error, DataError))


def _write(task: Task, encoder: Encoder, folder: Path) -> Written:
    if isinstance(task, PromptTask):
        PromptFolder(folder, encoder.prompt_hash).write(task.prompts, encoder.tokens(task.prompts))
        return Written(prompts=len(task.prompts))
    path = folder_of(folder, encoder.vae_hash) / task.name
    write_shard(path, encoder.vae_hash, task.pieces, shard_tensors(task, encoder))
    return Written(windows=task.num_windows)


def shard_tensors(task: ShardTask, encoder: Encoder) -> dict[str, Half]:
    """The tensors of a shard: for every mask the means of its windows, for whole windows their log-variances too."""
    parts: dict[str, list[Half]] = {}
    for source, pieces in itertools.groupby(task.pieces, key=lambda piece: piece.source):
        for piece, mean, logvar in _encoded(list(pieces), task.runs.get(source), encoder):
            parts.setdefault(f"mean/{piece.mask}", []).append(mean)
            if "0" not in piece.mask:
                parts.setdefault(f"logvar/{piece.mask}", []).append(logvar)
    return {name: np.concatenate(windows) for name, windows in parts.items()}


def _encoded(pieces: Sequence[Piece], run: Run | None, encoder: Encoder) -> Iterator[tuple[Piece, Half, Half]]:
    """Pieces of one run with their latents (b c t h w), a few windows at a time."""
    numbers = sorted({frame for piece in pieces for window in _windows(piece) for frame in window})
    pixels = _blank(pieces[0].source) if run is None else FrameStore(0).read(run, numbers)  # n h w c
    for piece in pieces:
        places = np.searchsorted(numbers, _windows(piece))  # b t
        step = encoder.windows_at_once(len(piece.mask))
        for begin in range(0, len(places), step):
            yield piece, *encoder.encode(pixels[places[begin : begin + step]], piece.mask)


def _windows(piece: Piece) -> npt.NDArray[np.int64]:
    """Frame numbers of the windows of a piece: (b t)."""
    return np.asarray(piece.firsts)[:, None] + np.arange(len(piece.mask)) * piece.stride


def _blank(size: str) -> Frames:
    """One frame of `size` HEIGHTxWIDTH, of which nothing will be known."""
    height, width = map(int, size.split("x"))
    return np.zeros((1, height, width, 3), np.uint8)
