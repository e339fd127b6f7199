"""Records and rows made by hand, for tests that need no video."""

from datetime import UTC, datetime
from typing import Any

from curation.records import Row, VideoRecord, video_id_of

DIM = 128


def record(uri: str, sha256: str, num_clips: int = 1, stages: dict[str, str] | None = None, **clip: Any) -> VideoRecord:
    """The record of a video that was measured: clips of 8 frames and one second, `clip` added to each."""
    video_id = video_id_of(sha256, uri)
    video = {
        "video_id": video_id,
        "source_uri": uri,
        "status": "ok",
        "num_clips": num_clips,
        "num_frames": 8 * num_clips,
    }
    known: Row = {"video_id": video_id, "source_uri": uri, "source_sha256": sha256, "clip_embedding": [0.25] * DIM}
    known |= {"num_frames": 8, "width": 64, "height": 64, "cut_in": "start", "cut_out": "end", "duration_s": 1.0}
    clips = [
        {
            **known,
            "clip_id": f"{video_id}{i}",
            "clip_index": i,
            "start_frame": 8 * i,
            "content_digest": f"{video_id}{i}",
            "start_s": float(i),
            "end_s": i + 1.0,
            "start_pts": 10 * i,
            "end_pts": 10 * i + 10,
            **clip,
        }
        for i in range(num_clips)
    ]
    return VideoRecord({**video, "finished_at": datetime.now(UTC)}, clips, [], stages or {})
