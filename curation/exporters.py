"""Clip files in the forms other trainers read: Hugging Face VideoFolder, WebDataset shards, Open-Sora's CSV.

A folder is built beside its place and moved there when complete, so an export is whole or absent; the same export again
replaces it.
"""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import tarfile
import tokenize
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from curation.config import CurationConfig
from curation.config_error import CurationError
from curation.schema import clips_schema
from curation.store import Store

MARKER = ".export.json"
EXPORTED_FILES = {"videofolder": ("metadata.parquet", "clips/*"), "webdataset": ("clips-*.tar",)}
EMBEDDINGS = ("clip_embedding", "frame_embeddings")
OPENSORA_COLUMNS = ("path", "text", "num_frames", "fps", "height", "width", "aes", "flow", "match")
CLIP_LOGIT_SCALE = 100.0
# --where is any expression of pandas, so what it raises is what any wrong expression can.
_QUERY_ERRORS = (
    *(SyntaxError, NameError, ValueError, TypeError, AttributeError, NotImplementedError),
    *(LookupError, ArithmeticError, tokenize.TokenError),
)


class ExportError(CurationError):
    """Nothing that could be exported, or no place to put it."""


class ClipTables(Protocol):
    """What is needed of a dataset (`curation.dataset.Dataset` has it)."""

    @property
    def store(self) -> Store:
        """Where its files are."""

    @property
    def config(self) -> CurationConfig:
        """With which the clip files were written."""

    @property
    def clips(self) -> pd.DataFrame:
        """The table of clips."""

    def open(self, file_name: str) -> BinaryIO:
        """A file of the dataset by its name in the tables; OSError when it is missing."""


@dataclass(frozen=True)
class Chosen:
    """Clips that fulfil a condition and have a file, in order of video and time, and how many others have none."""

    clips: pd.DataFrame
    num_without_file: int


def choose_clips(dataset: ClipTables, where: str = "keep") -> Chosen:
    """The clips for which the pandas expression `where` is true, e.g. "keep and motion_score > 0.1".

    Raises ExportError: no such expression, no such clips, or none with a file of its own.
    """
    clips = dataset.clips
    chosen = clips[_mask(clips, where)].sort_values(["video_id", "clip_index"], kind="stable")
    if chosen.empty:
        raise ExportError(
            f"{dataset.store}: none of {len(clips)} clips fulfils --where {where!r}: give another condition"
        )
    with_file = chosen[chosen["file_name"].notna()]
    if with_file.empty:
        raise ExportError(
            f"{dataset.store}: none of the {len(chosen)} clips with {where!r} has a file of its own: write them with "
            f"{_reselect(dataset)} --materialize auto"
        )
    return Chosen(with_file.reset_index(drop=True), len(chosen) - len(with_file))


def _mask(clips: pd.DataFrame, where: str) -> pd.Series:
    if "keep" in where and clips["keep"].isna().any():
        raise ExportError("clips are not selected yet (keep is null): finish python -m pipelines.curate first")
    decided = clips.assign(keep=clips["keep"].fillna(False).astype(bool))
    try:
        mask = decided.eval(where, local_dict={}, global_dict={}, engine="python")
    except _QUERY_ERRORS as error:
        reason = " ".join(str(error).split())
        raise ExportError(
            f"--where {where!r} cannot be evaluated ({reason}): use columns of clips, see docs"
        ) from error
    if not isinstance(mask, pd.Series) or not pd.api.types.is_bool_dtype(mask.dtype):
        raise ExportError(f"--where {where!r} is no condition: compare a column, e.g. 'keep and motion_score > 0.1'")
    return mask.fillna(False).astype(bool)


# --- Hugging Face VideoFolder ---------------------------------------------------------------------------------------


def export_videofolder(dataset: ClipTables, output: Path | None = None, where: str = "keep") -> str:
    """A folder for `datasets.load_dataset("videofolder", data_dir=…)`: clip files and metadata.parquet.

    metadata.parquet holds `file_name`, relative to it, and all columns of `clips` but the embeddings. Files are hard
    links where the file system allows it, else copies. Without `output`, or with the dataset itself, nothing is copied:
    DATASET/media becomes that folder. Returns a summary.
    """
    chosen = choose_clips(dataset, where)
    if output is None or Store.at(output) == dataset.store:
        return _index_in_place(dataset, chosen)
    with _new_folder(output, {"format": "videofolder", "dataset": str(dataset.store), "where": where}) as folder:
        (folder / "clips").mkdir()
        names = ["clips/" + name.rpartition("/")[2] for name in chosen.clips["file_name"]]
        for source, name in zip(chosen.clips["file_name"], names, strict=True):
            _link_or_copy(dataset, source, folder / name)
        pq.write_table(_metadata(chosen.clips, names), folder / "metadata.parquet", compression="zstd")
    return _summary(output, chosen)


def _index_in_place(dataset: ClipTables, chosen: Chosen) -> str:
    for name in chosen.clips["file_name"]:
        _open(dataset, name).close()
    table = _metadata(chosen.clips, [name.removeprefix("media/") for name in chosen.clips["file_name"]])
    with dataset.store.writing("media/metadata.parquet") as path:
        pq.write_table(table, path, compression="zstd")
    return _summary(dataset.store.place("media"), chosen)


def _metadata(clips: pd.DataFrame, names: list[str]) -> pa.Table:
    columns = [column for column in clips_schema(1) if column.name in clips.columns and column.name not in EMBEDDINGS]
    order = sorted(columns, key=lambda column: (column.name != "file_name", column.name != "caption"))
    table = pa.Table.from_pandas(clips.assign(file_name=names), pa.schema(order), preserve_index=False)
    return table.replace_schema_metadata(None)


# --- WebDataset -----------------------------------------------------------------------------------------------------


def export_webdataset(
    dataset: ClipTables, output: Path | None, where: str = "keep", clips_per_shard: int = 1000
) -> str:
    """Shards clips-000000.tar, … of samples KEY.mp4 (or .mkv), KEY.txt (caption) and KEY.json (the other columns).

    KEY is the clip_id; samples are ordered by it, so neighbours come from different videos. The bytes depend on nothing
    but the clips. A clip without a caption has an empty .txt. Readers that guess types from the first samples (Hugging
    Face's) need them told where a score is null there; VideoFolder states them. Returns a summary.
    """
    if clips_per_shard < 1:
        raise ExportError(f"clips_per_shard = {clips_per_shard} must be at least 1")
    if output is None:
        raise ExportError("--output is missing: give a folder for the shards")
    chosen = choose_clips(dataset, where)
    ordered = chosen.clips.sort_values("clip_id")
    clips = _metadata(ordered, list(ordered["file_name"])).to_pylist()
    about = {"format": "webdataset", "dataset": str(dataset.store), "where": where}
    with _new_folder(output, about) as folder:
        for shard, first in enumerate(range(0, len(clips), clips_per_shard)):
            with tarfile.open(folder / f"clips-{shard:06d}.tar", "w", format=tarfile.GNU_FORMAT) as tar:
                for clip in clips[first : first + clips_per_shard]:
                    _add_sample(tar, dataset, clip)
    return _summary(output, chosen)


def _add_sample(tar: tarfile.TarFile, dataset: ClipTables, clip: dict[str, Any]) -> None:
    key, suffix = clip["clip_id"], Path(clip["file_name"]).suffix
    with _open(dataset, clip["file_name"]) as file:
        size = file.seek(0, io.SEEK_END)
        file.seek(0)
        _add(tar, key + suffix, file, size)
    for name, text in ((".json", json.dumps(clip, sort_keys=True, ensure_ascii=False)), (".txt", clip["caption"])):
        content = (text or "").encode()
        _add(tar, key + name, io.BytesIO(content), len(content))


def _add(tar: tarfile.TarFile, name: str, file: BinaryIO, size: int) -> None:
    member = tarfile.TarInfo(name)  # time, owner and group are 0
    member.size = size
    tar.addfile(member, file)


# --- Open-Sora ------------------------------------------------------------------------------------------------------


def export_opensora(dataset: ClipTables, output: Path | None, where: str = "keep") -> str:
    """The CSV that Open-Sora's tools and trainer read: path,text,num_frames,fps,height,width,aes,flow,match.

    Paths are absolute; frames, rate and size are the file's. `aes` is aesthetic_score, `flow` motion_score, `match`
    100 × clip_similarity (its tools multiply the cosine by CLIP's logit scale, 100). Unknown scores stay empty.
    Returns a summary.
    """
    if output is None or output.suffix != ".csv":
        raise ExportError(f"--output {output} does not end in .csv: give the name of the file to write")
    _require_ours(output)
    chosen = choose_clips(dataset, where)
    for name in chosen.clips["file_name"]:
        _open(dataset, name).close()
    clips = _metadata(chosen.clips, list(chosen.clips["file_name"])).to_pylist()
    rows = [_opensora_row(dataset, clip) for clip in clips]
    _write_file(output, lambda path: _write_csv(path, rows))
    return _summary(output, chosen)


def _opensora_row(dataset: ClipTables, clip: dict[str, Any]) -> list[Any]:
    runs = dataset.config.runs
    height, width = (clip["height"], clip["width"]) if clip["file_method"] == "copy" else (runs.height, runs.width)
    similarity = clip["clip_similarity"]
    return [
        dataset.store.place(clip["file_name"]),
        clip["caption"] or "",
        clip["file_num_frames"],
        round(clip["file_num_frames"] / (clip["file_end_s"] - clip["file_start_s"]), 6),
        height,
        width,
        clip["aesthetic_score"],
        clip["motion_score"],
        None if similarity is None else similarity * CLIP_LOGIT_SCALE,
    ]


def _write_csv(path: Path, rows: Iterable[list[Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(OPENSORA_COLUMNS)
        writer.writerows(rows)


def _require_ours(output: Path) -> None:
    if output.is_dir():
        raise ExportError(f"--output {output} is a folder: give the name of a .csv file")
    if output.is_file():
        with output.open(encoding="utf-8", errors="replace") as file:
            if file.readline().strip() != ",".join(OPENSORA_COLUMNS):
                raise ExportError(f"--output {output} holds something else: give another name")


# --- places ---------------------------------------------------------------------------------------------------------


def _open(dataset: ClipTables, file_name: str) -> BinaryIO:
    try:
        return dataset.open(file_name)
    except OSError as error:
        raise ExportError(
            f"{dataset.store}: {file_name} is named in clips but cannot be opened ({error.strerror or error}): write "
            f"it again with {_reselect(dataset)}"
        ) from error


def _reselect(dataset: ClipTables) -> str:
    place = dataset.store
    return f"python -m pipelines.curate --output {place} --profile {place.place('config.json')} --reselect"


def _link_or_copy(dataset: ClipTables, file_name: str, target: Path) -> None:
    try:
        os.link(dataset.store.place(file_name), target)
    except OSError:  # another file system, an object store, or no such file: opening it tells
        with _open(dataset, file_name) as source, target.open("wb") as copy:
            shutil.copyfileobj(source, copy, 1 << 20)


@contextmanager
def _new_folder(output: Path, about: dict[str, str]) -> Iterator[Path]:
    """A folder beside `output` that takes its place when the block ends well; replaces an export, nothing else."""
    if output.is_file() or (output.is_dir() and not _is_free(output, about["format"])):
        raise ExportError(f"--output {output} holds something else: give an empty or new folder")
    unfinished, old = (output.absolute().with_name(f"_{os.getpid()}_{kind}_{output.name}") for kind in ("new", "old"))
    try:
        unfinished.mkdir(parents=True)
        yield unfinished
        (unfinished / MARKER).write_text(json.dumps(about))
        if output.exists():
            output.rename(old)
        unfinished.rename(output)
    except OSError as error:
        raise _cannot_write(output, error) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def _is_free(folder: Path, kind: str) -> bool:
    """Whether a folder is empty, or an export of that kind to which nobody has added anything."""
    names = [path.relative_to(folder) for path in folder.rglob("*") if not path.is_dir()]
    if not names:
        return True
    marker = folder / MARKER
    ours = (MARKER, *EXPORTED_FILES[kind])
    return (
        marker.is_file()
        and json.loads(marker.read_text()).get("format") == kind
        and all(any(name.match(pattern) for pattern in ours) for name in names)
    )


def _write_file(path: Path, write: Callable[[Path], object]) -> None:
    unfinished = path.with_name(f"_{os.getpid()}_{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            write(unfinished)
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)
    except OSError as error:
        raise _cannot_write(path, error) from error


def _cannot_write(path: Path, error: OSError) -> ExportError:
    return ExportError(f"{path} cannot be written ({error.strerror or error}): free space or give another --output")


def _summary(place: object, chosen: Chosen) -> str:
    left_out = f", {chosen.num_without_file} clips without a file left out" if chosen.num_without_file else ""
    return f"{place}: {len(chosen.clips)} clips{left_out}"
