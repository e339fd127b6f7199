"""Which bytes a run file had when it was encoded: latents then need no footage, and a changed file is noticed."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from nuwa.data.runs import Run
from nuwa.data.whole_files import DamagedFileError, LatentsError, write_whole


@dataclass(frozen=True, kw_only=True)
class RunHash:
    """A run file as it was: its SHA-256, length in bytes, time of its last change (ns), and what its table said."""

    sha256: str
    bytes: int
    mtime_ns: int
    num_frames: int
    width: int
    height: int
    train_fps: float

    def describes(self, run: Run) -> bool:
        """True where the table still says the same of the run."""
        mine = (self.num_frames, self.width, self.height, self.train_fps)
        return mine == (run.num_frames, run.width, run.height, run.train_fps)


class RunHashes:
    """The runs that were ever encoded into `folder`: below `runs/` a JSON file for each dataset."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "runs"
        self._known: dict[str, list[RunHash]] = {}
        for path in sorted(self.folder.glob("*.json")):
            for run_id, hashed in _read(path):
                self._known.setdefault(run_id, []).append(hashed)

    def of(self, runs: Sequence[Run]) -> dict[str, str]:
        """SHA-256 of the file of each run that was encoded, by run_id; files not touched since are not read again.

        Raises LatentsError for a file that is another one than was encoded.
        """
        return {run.run_id: sha256 for run in runs if (sha256 := self._of(run)) is not None}

    def _of(self, run: Run) -> str | None:
        known = [hashed for hashed in self._known.get(run.run_id, []) if hashed.describes(run)]
        if not known or not run.path.is_file():
            return _only(run, known)
        stat = run.path.stat()
        same_size = {hashed.sha256 for hashed in known if hashed.bytes == stat.st_size}
        untouched = {h.sha256 for h in known if (h.bytes, h.mtime_ns) == (stat.st_size, stat.st_mtime_ns)}
        if len(untouched) == 1:
            return untouched.pop()
        if not same_size or (found := _sha256(run.path)) not in same_size:
            raise LatentsError(
                f"run file {run.path} has changed since it was encoded; give the command of pipelines.encode again"
            )
        return found

    def hashed(self, runs: Sequence[Run]) -> dict[str, RunHash]:
        """The file of each run as it is, by run_id; files that have not changed since are not read again.

        A run whose file has gone counts as it was. Raises LatentsError for one never seen.
        """
        with ThreadPoolExecutor(max_workers=4) as pool:  # waits for the disk
            return dict(zip((run.run_id for run in runs), pool.map(self._hash, runs), strict=True))

    def keep(self, found: Mapping[str, RunHash]) -> Path:
        """Write down what `hashed` found, and where. Raises LatentsError when the disk does not take it."""
        text = json.dumps({run_id: asdict(hashed) for run_id, hashed in found.items()}, indent=0, sort_keys=True)
        name = hashlib.sha256("".join(f"{run_id}{h.sha256}" for run_id, h in found.items()).encode()).hexdigest()[:16]
        path = self.folder / f"{name}.json"
        if not path.is_file() or path.read_text("utf-8") != text:
            write_whole(path, text.encode())
        return path

    def _hash(self, run: Run) -> RunHash:
        known = [hashed for hashed in self._known.get(run.run_id, []) if hashed.describes(run)]
        try:
            stat = run.path.stat()
            for hashed in known:
                if (hashed.bytes, hashed.mtime_ns) == (stat.st_size, stat.st_mtime_ns):
                    return hashed
            return RunHash(
                sha256=_sha256(run.path),
                bytes=stat.st_size,
                mtime_ns=stat.st_mtime_ns,
                num_frames=run.num_frames,
                width=run.width,
                height=run.height,
                train_fps=run.train_fps,
            )
        except OSError as error:
            if isinstance(error, FileNotFoundError) and _only(run, known) is not None:
                return known[0]
            raise LatentsError(
                f"run file {run.path} cannot be read ({error.strerror or error}); put it back, or run pipelines.curate "
                "again"
            ) from error


def _only(run: Run, known: Sequence[RunHash]) -> str | None:
    """The one file that `known` describes; None without any. Raises LatentsError for several."""
    if len({hashed.sha256 for hashed in known}) > 1:
        raise LatentsError(
            f"run {run.run_id} was encoded from two different files, and {run.path} is not there to tell which one is "
            "meant; put it back, or encode into a folder of its own"
        )
    return known[0].sha256 if known else None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read(path: Path) -> Iterator[tuple[str, RunHash]]:
    try:
        for run_id, entries in json.loads(path.read_text("utf-8")).items():
            yield run_id, RunHash(**entries)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise DamagedFileError(
            f"{path} is damaged ({error}); remove it and give the command of pipelines.encode again"
        ) from error
