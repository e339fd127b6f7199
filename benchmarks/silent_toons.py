"""Toon episodes whose prompts leave out the hero's colour and shape, as a dataset folder that training reads.

What the hero looks like is then in the pictures only: a video keeps it by what its windows know of each other.
"""

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from curation.video import write_video
from demo import stories, world

FPS, SIZE_PX = 8.0, 32


def silent_prompt(scene: world.Scene) -> str:
    """What the scene shows but for the hero."""
    return f"{scene.action} {world.PREPOSITION[scene.place]} {scene.place}"


def draw_episode(seed: int, num_frames: int) -> list[world.Scene]:
    """The clean scene of every frame of a training episode; nothing in it is held out."""
    rng = np.random.default_rng([seed, 7])
    hero, scenes = world.random_hero(rng, False), list[world.Scene]()
    while len(scenes) < num_frames:
        scene = world.random_scene(rng, hero, False, scenes[-1].place if scenes else "", clean=True)
        scenes += [scene] * round(scene.duration_s * FPS)
    return scenes[:num_frames]


def write_episodes(folder: Path, episodes: int, num_frames: int, seed: int) -> Path:
    """A dataset folder of one run per episode, one clip per scene; what is there already stays."""
    if (folder / "runs").is_dir():
        return folder
    drawn = [draw_episode(seed + number, num_frames) for number in range(episodes)]
    for number, scenes in enumerate(drawn):
        video = folder / _file_name(number)
        if not video.is_file():
            write_video(video, stories.draw_frames(scenes, SIZE_PX, SIZE_PX, FPS), FPS)
    clips = [clip for number, scenes in enumerate(drawn) for clip in _clips(number, scenes)]
    _write_table(folder / "clips", [{name: clip[name] for name in ("clip_id", "caption")} for clip in clips])
    _write_table(folder / "runs", [_run(number, scenes) for number, scenes in enumerate(drawn)])  # last: complete
    return folder


def _file_name(number: int) -> str:
    return f"media/runs/{number:04d}.mp4"


def _clips(number: int, scenes: Sequence[world.Scene]) -> list[dict[str, object]]:
    """The clips of an episode, each with its first frame."""
    found, first = list[dict[str, object]](), 0
    for scene, shot in groupby(scenes):
        found.append({"clip_id": f"{number:04d}-{first:05d}", "caption": silent_prompt(scene), "first": first})
        first += len(list(shot))
    return found


def _run(number: int, scenes: Sequence[world.Scene]) -> dict[str, object]:
    clips = _clips(number, scenes)
    return {
        "run_id": f"{number:04d}",
        "file_name": _file_name(number),
        "num_frames": len(scenes),
        "train_fps": FPS,
        "width": SIZE_PX,
        "height": SIZE_PX,
        "clip_ids": [clip["clip_id"] for clip in clips],
        "first_frame_of_clip": [clip["first"] for clip in clips],
    }


def _write_table(folder: Path, rows: list[dict[str, object]]) -> None:
    """One Parquet part, whole or not there; clips also have the column of motion scores, empty."""
    if folder.is_dir():
        return
    table = pa.Table.from_pylist(rows)
    if "caption" in table.column_names:
        table = table.append_column("motion_score", pa.nulls(len(rows), pa.float64()))
    draft = folder.with_name(f"_{folder.name}")
    draft.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, draft / "part-00000.parquet")
    draft.replace(folder)
