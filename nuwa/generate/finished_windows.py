"""Windows that are done, on disk: the same command goes on where it was killed.

One safetensors file per window, written under a temporary name, flushed and then renamed, with a checksum of what it
holds. The folder belongs to one video: `identity.json` says which.
"""

import json
import os
import re
import zlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from nuwa.generate.windows import WindowResult
from nuwa.hierarchy import NuwaError, Window

_IDENTITY = "identity.json"
_DRAFT = re.compile(r"_\d+_")


class FinishedWindows:
    """The finished windows of one video in `folder`, which is made when it is not there.

    One process at a time may use the folder: drafts in it, left by writers that were killed, are removed. A job holds a
    lock on it; without a job the caller sees to that.

    identity: text that fixes the video; NuwaError when the folder holds windows of another one, with the names of what
        differs where the text is a JSON object
    """

    def __init__(self, folder: str | Path, identity: str) -> None:
        self.folder = Path(folder)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._check_identity(identity)
            self._remove_drafts()
        except OSError as error:
            raise self._cannot_write(error) from error

    def windows(self, windows: list[Window]) -> set[Window]:
        """Which of `windows` are finished; reads every file once.

        Files that are cut short or altered are removed, so that their windows are made again.
        """
        return {window for window in windows if self._is_whole(self._path(window))}

    def read(self, window: Window) -> WindowResult:
        """A window that `windows` has named. NuwaError when its file has gone since."""
        try:
            tensors, _ = _read(self._path(window))
        except (OSError, SafetensorError) as error:
            raise NuwaError(f"{self._path(window)} has gone or changed since the start; start again") from error
        return WindowResult(tensors["latents"], tensors.get("pixels"))

    def write(self, window: Window, result: WindowResult) -> None:
        """Keep a window, whole or not at all. NuwaError when the disk does not take it; what is there stays."""
        tensors = {"latents": result.latents.contiguous()}
        if result.pixels is not None:
            tensors["pixels"] = result.pixels.contiguous()
        try:
            self._replace(self._path(window), save(tensors, metadata={"crc32": str(_checksum(tensors))}))
        except OSError as error:
            raise self._cannot_write(error) from error

    def _path(self, window: Window) -> Path:
        return self.folder / f"{window.level}-{window.index:06d}.safetensors"

    def _is_whole(self, path: Path) -> bool:
        try:
            tensors, checksum = _read(path)
        except FileNotFoundError:
            return False
        except (OSError, SafetensorError):
            checksum = None
        if checksum is None or checksum != str(_checksum(tensors)):
            path.unlink(missing_ok=True)
            return False
        return True

    def _replace(self, path: Path, content: bytes) -> None:
        draft = path.with_name(f"_{os.getpid()}_{path.name}")
        try:
            with draft.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)

    def _remove_drafts(self) -> None:
        for path in self.folder.iterdir():
            if _DRAFT.match(path.name):
                path.unlink(missing_ok=True)

    def _check_identity(self, identity: str) -> None:
        path = self.folder / _IDENTITY
        if not path.exists():
            self._check_own()
            self._replace(path, identity.encode())
            return
        there = path.read_text("utf-8", errors="replace")
        if there != identity:
            raise NuwaError(
                f"{self.folder} holds windows of another video ({differences(there, identity)}); "
                "give the settings they were made with, or remove that folder"
            )

    def _check_own(self) -> None:
        """Raise NuwaError for a folder without identity that holds more than drafts: it is somebody else's."""
        others = sorted(path.name for path in self.folder.iterdir() if not _DRAFT.match(path.name))
        if others:
            raise NuwaError(
                f"{self.folder} holds files that are no windows of a video in the making ({others[0]}); "
                "give another output, or move that folder away"
            )

    def _cannot_write(self, error: OSError) -> NuwaError:
        return NuwaError(
            f"{self.folder} cannot be written to ({error.strerror or error}); all finished windows are kept: "
            "make room there and give the same command again"
        )


def differences(one: str, other: str) -> str:
    """What differs between two identities: names of entries where both are JSON objects."""
    try:
        entries = [_flat(json.loads(text)) for text in (one, other)]
    except ValueError:
        return "made with other settings"
    names = [name for name in {**entries[0], **entries[1]} if entries[0].get(name) != entries[1].get(name)]
    return f"differs in {', '.join(names)}"


def _flat(entries: object, name: str = "") -> dict[str, object]:
    """Entries of nested objects under dotted names."""
    if not isinstance(entries, dict):
        return {name or "identity": entries}
    return {
        key: value
        for child, inner in entries.items()
        for key, value in _flat(inner, f"{name}.{child}".lstrip(".")).items()
    }


def _read(path: Path) -> tuple[dict[str, torch.Tensor], str | None]:
    """Tensors of a file and the checksum it states."""
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, (file.metadata() or {}).get("crc32")  # noqa: SIM118


def _checksum(tensors: Mapping[str, torch.Tensor]) -> int:
    checksum = 0
    for name in sorted(tensors):
        checksum = zlib.crc32(tensors[name].contiguous().numpy().data, zlib.crc32(name.encode(), checksum))
    return checksum
