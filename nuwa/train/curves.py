"""Curves of a training for TensorBoard, below `logs/` of its run folder."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from nuwa.train.config import TrainError


class Curves:
    """TensorBoard's file from step `done` + 1 on. Raises TrainError when it cannot be written."""

    def __init__(self, folder: Path, done: int) -> None:
        self.folder = folder
        with self._in_one_line():
            self._writer = SummaryWriter(str(folder), purge_step=done + 1)

    def __enter__(self) -> "Curves":
        return self

    def __exit__(self, *_: object) -> None:
        with self._in_one_line():
            self._writer.close()

    def add(self, scalars: Mapping[str, float], step: int, group: str = "train") -> None:
        """Points of all curves of a group at one step."""
        with self._in_one_line():
            for name, value in scalars.items():
                self._writer.add_scalar(f"{group}/{name}", value, step)

    @contextmanager
    def _in_one_line(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise TrainError(
                f"curves below {self.folder} cannot be written ({error}); make room and give the same command again"
            ) from error
