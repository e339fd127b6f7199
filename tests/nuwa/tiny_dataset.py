"""A dataset folder of a few frames: clips and runs as Parquet, run files as short-GOP H.264."""

from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

FPS = 8


def brightness(number: int) -> int:
    """Grey level of frame `number` of every run."""
    return 16 + number * 7 % 220


def write_dataset(folder: Path, lengths: list[int], size: int = 16, clip_frames: int = 6) -> Path:
    """One run per length; clip `i` of a run begins at frame `i * clip_frames`; every third has no motion score."""
    clips, runs = [], []
    for number, length in enumerate(lengths):
        firsts = list(range(0, length, clip_frames))
        ids = [f"clip-{number}-{place}" for place in range(len(firsts))]
        scores = [None if place % 3 == 2 else 0.1 * (place + 1) for place in range(len(firsts))]
        clips += [
            {"clip_id": name, "caption": f"a red star in scene {name[-1]}", "motion_score": score}
            for name, score in zip(ids, scores, strict=True)
        ]
        name = f"media/runs/run-{number}.mp4"
        _write_video(folder / name, length, size)
        runs.append(
            {
                "run_id": f"run-{number}",
                "video_id": f"video-{number}",
                "file_name": name,
                "num_frames": length,
                "train_fps": float(FPS),
                "width": size,
                "height": size,
                "clip_ids": ids,
                "first_frame_of_clip": firsts,
                "run_break_reasons": [],
            }
        )
    for table, rows in (("clips", clips), ("runs", runs)):
        (folder / table).mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(rows), folder / table / "part-00000.parquet")
    return folder


def _write_video(path: Path, length: int, size: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    options = {"crf": "8", "g": "8", "preset": "ultrafast"}
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options=options)
        stream.width, stream.height, stream.pix_fmt = size, size, "yuv420p"
        for number in range(length):
            image = np.full((size, size, 3), brightness(number), np.uint8)
            image[: size // 2, : size // 2, 0] = 200
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
