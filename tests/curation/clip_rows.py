"""Small videos in many codecs and containers, rows of `clips` about pieces of any video, and what a copy must be."""

import itertools
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from curation.clip_files import copy_loss, write_clip_file
from curation.config import ClipFileConfig, RunConfig
from curation.container import open_stream
from curation.video import Frame, decode

COPY, ENCODE, AUTO = (ClipFileConfig(materialize=policy) for policy in ("copy", "encode", "auto"))
RUNS = RunConfig(height=64, width=96, crf=8)
GOP = "keyint=12:min-keyint=12:scenecut=0:bframes=3:b-adapt=0"
SMALL_VIDEOS: dict[str, tuple[str, dict[str, str]]] = {
    "h264.mp4": ("libx264", {"x264-params": f"{GOP}:b-pyramid=normal"}),
    "h264.mkv": ("libx264", {"x264-params": f"{GOP}:b-pyramid=normal"}),
    "h264.ts": ("libx264", {"x264-params": GOP}),
    "open_gop.mp4": ("libx264", {"x264-params": f"{GOP}:b-pyramid=normal:open-gop=1"}),
    "open_gop.mkv": ("libx264", {"x264-params": f"{GOP}:b-pyramid=normal:open-gop=1"}),
    "hevc_open_gop.mkv": ("libx265", {"x265-params": f"{GOP}:open-gop=1:log-level=none"}),
    "mpeg4.avi": ("mpeg4", {"g": "12", "bf": "2"}),
    "mpeg2.mkv": ("mpeg2video", {"g": "12", "bf": "2"}),
    "vp8_hidden_frames.webm": ("libvpx", {"auto-alt-ref": "1", "lag-in-frames": "16", "g": "20", "cpu-used": "4"}),
    "vp9.webm": ("libvpx-vp9", {"auto-alt-ref": "1", "lag-in-frames": "16", "g": "20", "cpu-used": "8"}),
}


def write_small_video(path: Path, codec: str, options: dict[str, str], num_frames: int = 60) -> Path:
    """A texture that moves below a bar that brightens: 96x64, 10 frames per second, every frame its own."""
    texture = np.random.default_rng(0).integers(0, 255, (64, 96, 3)).astype(np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10, options=options)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for k in range(num_frames):
            image = np.roll(texture, 3 * k, 1)
            image[:8] = 4 * k
            picture = av.VideoFrame.from_ndarray(image, format="rgb24")
            picture.pts, picture.time_base = k, Fraction(1, 10)
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return path


def rows_of(uri: str, cuts: Sequence[int] = ()) -> list[dict[str, Any]]:
    """Rows of the pieces between the frames `cuts`, with the columns that clip files are made from."""
    with open_stream(uri) as (_, stream):
        time_base = stream.time_base
    times = [(frame.pts, frame.time_s) for frame in decode(uri)]
    step_s = (times[-1][1] - times[0][1]) / max(1, len(times) - 1) or 0.1
    times.append((times[-1][0] + max(1, round(step_s / time_base)), times[-1][1] + step_s))
    pieces = itertools.pairwise([0, *cuts, len(times) - 1])
    return [_row(uri, times[first], times[end], end - first, n) for n, (first, end) in enumerate(pieces)]


def _row(uri: str, start: tuple[int, float], end: tuple[int, float], num_frames: int, n: int) -> dict[str, Any]:
    return {
        "clip_id": f"clip{n}",
        "source_uri": uri,
        "start_pts": start[0],
        "end_pts": end[0],
        "start_s": start[1],
        "end_s": end[1],
        "duration_s": end[1] - start[1],
        "num_frames": num_frames,
    }


def frames_between(uri: str, start_s: float, end_s: float) -> list[Frame]:
    """The frames of a source that are shown in a span."""
    until_end = itertools.takewhile(lambda frame: frame.time_s < end_s - 1e-6, decode(uri))
    return [frame for frame in until_end if frame.time_s >= start_s - 1e-6]


def require_copy(row: dict[str, Any], folder: Path, every: int = 1) -> dict[str, Any]:
    """Write a copy and compare all its times, and the pixels of every so many frames, with the source."""
    file = write_clip_file(row, folder / row["clip_id"], COPY, RUNS)
    if file["file_method"] is None:
        return file
    wanted = frames_between(row["source_uri"], file["file_start_s"], file["file_end_s"])
    found = list(decode(str(folder / file["file_name"])))
    assert len(found) == len(wanted) == file["file_num_frames"]
    trusted = all(frame.pts == frame.picture.pts for frame in wanted)  # an AVI may state times out of order
    for ours, source in zip(found, wanted, strict=True):
        assert ours.size == source.size  # rotation and pixel aspect came along
        assert not trusted or ours.time_s == pytest.approx(source.time_s - wanted[0].time_s, abs=1.1e-3)
        assert ours.index % every or np.array_equal(ours.image, source.image)
        assert ours.picture.rotation == source.picture.rotation
    assert row["start_s"] - 1e-9 <= file["file_start_s"] < file["file_end_s"] <= row["end_s"] + 1e-9
    kept = (file["file_end_s"] - file["file_start_s"]) / row["duration_s"]
    assert file["file_loss_frac"] == pytest.approx(1 - kept, abs=1e-6)
    assert file["file_loss_frac"] == pytest.approx(copy_loss(row).here, abs=1e-2)
    return file


def likeness_db(a: np.ndarray, b: np.ndarray) -> float:
    """Peak signal-to-noise ratio of the brightness of two (h w 3) uint8 images; colour is stored at half the size."""
    difference = (a.astype(float) - b.astype(float)) @ (0.299, 0.587, 0.114)
    return float(10 * np.log10(255**2 / (np.mean(difference**2) + 1e-9)))
