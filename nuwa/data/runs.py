"""Run files of a dataset folder: the tables that describe them, and their frames by number.

A run is contiguous presentation time of one video, written once at a constant frame rate and at training size;
the prompt and the motion score of a frame are those of its clip. Read from `runs/` and `clips/` (Parquet).
A pandas query may choose among the runs (runs_query.py).
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt

from nuwa.data.runs_query import runs_where
from nuwa.data.tables import DataError, Row, read_rows

Frames = npt.NDArray[np.uint8]
Captions = tuple[str, str, str]
"""Of one clip: `caption_coca`, `caption_video`, `caption_llm`; empty where there is none."""

RUN_COLUMNS = {
    "run_id": "text",
    "file_name": "text",
    "num_frames": "whole numbers",
    "train_fps": "numbers",
    "width": "whole numbers",
    "height": "whole numbers",
}
RUN_LISTS = {"clip_ids": "lists of text", "first_frame_of_clip": "lists of whole numbers"}
CAPTION_COLUMNS = ("caption_coca", "caption_video", "caption_llm")


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run file. `first_frames[i]` is the first frame of clip `i`, with its prompt and motion score (or NaN).

    `captions[i]` are the captions that `prompts[i]` was chosen from, `clip_ids[i]` is the clip's row in `clips`.
    """

    run_id: str
    path: Path
    num_frames: int
    train_fps: float
    width: int
    height: int
    first_frames: tuple[int, ...]
    prompts: tuple[str, ...]
    motion_scores: tuple[float, ...]
    clip_ids: tuple[str, ...] = ()
    captions: tuple[Captions, ...] = ()

    def clip_at(self, frame: int) -> int:
        """Position in the run of the clip that shows `frame`."""
        return max(0, bisect_right(self.first_frames, frame) - 1)

    def prompt(self, frame: int) -> str:
        """Caption of the clip that shows `frame`; empty when the clip has none."""
        return self.prompts[self.clip_at(frame)] if self.prompts else ""

    def clip_id(self, frame: int) -> str:
        """Id of the clip that shows `frame`; empty when the run names none."""
        return self.clip_ids[self.clip_at(frame)] if self.clip_ids else ""

    def captions_at(self, frame: int) -> Captions:
        """All captions of the clip that shows `frame`."""
        return self.captions[self.clip_at(frame)] if self.captions else ("", "", "")

    def motion_score(self, frames: Sequence[int]) -> float:
        """Mean motion score of the clips that show `frames`; NaN when none of them has one."""
        scores = [self.motion_scores[self.clip_at(frame)] for frame in frames] if self.motion_scores else []
        known = [score for score in scores if score == score]
        return float(np.mean(known)) if known else float("nan")


def read_runs(dataset: Path, where: str | None = None) -> list[Run]:
    """All runs of a dataset folder, or those that a pandas query chooses (see `runs_where`), in order of run_id.

    Raises DataError when the folder holds no dataset, no runs, or runs of different sizes or frame rates; when a column
    is missing or holds something else; when the query is none or chooses nothing.
    """
    if not dataset.is_dir():
        raise DataError(f"dataset {dataset} is not a folder; give a folder made by pipelines.curate")
    told = {"caption": "text", "motion_score": "numbers"}
    of_clips = read_rows(dataset / "clips", {"clip_id": "text"}, told, dict.fromkeys(CAPTION_COLUMNS, "text"))
    rows = sorted(read_rows(dataset / "runs", RUN_COLUMNS, RUN_LISTS, {}), key=lambda row: str(row["run_id"]))
    if not rows:
        raise DataError(f"dataset {dataset} holds no runs; curate more or longer footage, or relax the run policy")
    clips = {row["clip_id"]: row for row in of_clips}
    runs = [_run(dataset, row, clips) for row in rows]
    if where is not None:
        chosen = runs_where(dataset, where)
        runs = [run for run in runs if run.run_id in chosen]
    _check_alike(runs)
    return runs


def _run(dataset: Path, row: Row, clips: dict[object, Row]) -> Run:
    ids: list[str] = list(row["clip_ids"] or [])  # type: ignore[call-overload]
    firsts: list[int] = list(row["first_frame_of_clip"] or [])  # type: ignore[call-overload]
    if len(firsts) != len(ids):
        raise DataError(
            f"run {row['run_id']} has {len(ids)} clip_ids and {len(firsts)} first_frame_of_clip; "
            "run pipelines.curate again"
        )
    lost = next((clip for clip in ids if clip not in clips), None)
    if lost is not None:
        raise DataError(
            f"run {row['run_id']} names clip {lost}, which {dataset / 'clips'} lacks; give tables of one dataset"
        )
    mine = [clips[clip] for clip in ids]
    scores = [clip.get("motion_score") for clip in mine]
    return Run(
        run_id=str(row["run_id"]),
        path=dataset / str(row["file_name"]),
        num_frames=int(row["num_frames"]),  # type: ignore[call-overload]
        train_fps=float(row["train_fps"]),  # type: ignore[arg-type]
        width=int(row["width"]),  # type: ignore[call-overload]
        height=int(row["height"]),  # type: ignore[call-overload]
        first_frames=tuple(firsts),
        prompts=tuple(str(clip.get("caption") or "") for clip in mine),
        motion_scores=tuple(float("nan") if score is None else float(score) for score in scores),  # type: ignore[arg-type]
        clip_ids=tuple(ids),
        captions=tuple(_captions(clip) for clip in mine),
    )


def _captions(clip: Row) -> Captions:
    coca, video, llm = (str(clip.get(name) or "") for name in CAPTION_COLUMNS)
    return coca, video, llm


def _check_alike(runs: Sequence[Run]) -> None:
    sizes = sorted({(run.width, run.height, run.train_fps) for run in runs})
    if len(sizes) > 1:
        listed = ", ".join(f"{width}x{height} at {fps:g} fps" for width, height, fps in sizes)
        raise DataError(f"runs differ in size or frame rate ({listed}); curate them again with one configuration")


class FrameStore:
    """Frames of runs by number; whole decoded runs are kept as uint8 while `budget_bytes` lasts.

    Runs beyond the budget are read by seeking: run files have short groups of pictures. The budget holds for
    one process; each loader worker has its own.
    """

    def __init__(self, budget_bytes: int) -> None:
        self.budget_bytes = budget_bytes
        self.used_bytes = 0
        self._decoded: dict[str, Frames] = {}

    def read(self, run: Run, numbers: Sequence[int]) -> Frames:
        """Frames `numbers` (ascending) of `run`: uint8 (t h w c), RGB."""
        if run.run_id not in self._decoded:
            size = run.num_frames * run.height * run.width * 3
            if self.used_bytes + size > self.budget_bytes:
                return _collect(run, numbers)
            self._decoded[run.run_id] = _collect(run, range(run.num_frames))
            self.used_bytes += size
        return self._decoded[run.run_id][np.asarray(numbers)]


def _collect(run: Run, numbers: Sequence[int]) -> Frames:
    wanted = sorted(set(numbers))
    try:
        found = dict(_decode(run, wanted))
    except (av.FFmpegError, OSError) as error:
        raise DataError(f"run file {run.path} cannot be decoded ({error}); run pipelines.curate again") from error
    missing = [number for number in wanted if number not in found]
    if missing:
        raise DataError(
            f"run file {run.path} has no frame {missing[0]} of the {run.num_frames} in its table; "
            "run pipelines.curate again"
        )
    return np.stack([found[number] for number in numbers])


SEEK_GAP = 16
"""Frames: a wanted frame further ahead than this is reached by seeking, a nearer one by decoding on."""


def _decode(run: Run, wanted: Sequence[int]) -> Iterator[tuple[int, Frames]]:
    """Decode the frames `wanted` (ascending) and few others."""
    with av.open(str(run.path)) as container:
        stream = container.streams.video[0]
        start, base = stream.start_time or 0, stream.time_base
        assert base is not None, "every demuxed video stream has a time base"
        for near in _neighbourhoods(wanted):
            container.seek(start + round(near[0] / run.train_fps / base), stream=stream, backward=True)
            for frame in container.decode(stream):
                number = round(float((frame.pts - start) * base) * run.train_fps)
                if number in near:
                    yield number, frame.to_ndarray(format="rgb24")
                if number >= near[-1]:
                    break


def _neighbourhoods(wanted: Sequence[int]) -> list[list[int]]:
    """Split ascending frame numbers wherever the next one is more than SEEK_GAP ahead."""
    groups = [[wanted[0]]]
    for number in wanted[1:]:
        if number - groups[-1][-1] > SEEK_GAP:
            groups.append([])
        groups[-1].append(number)
    return groups
