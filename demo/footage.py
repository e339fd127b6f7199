"""Film toon episodes: H.264 files in one folder, their truth as JSON in another, which the pipeline never reads.

python -m demo.footage --output runs/demo --episodes 56
"""

import concurrent.futures
import dataclasses
import json
import multiprocessing
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from rich.progress import track

from curation.video import write_video
from demo import drawing, world
from pipelines import cli


@dataclass(frozen=True, kw_only=True)
class Film:
    """Film toon episodes with their truth beside them."""

    output: Path = Path("runs/demo")
    """Folder that receives footage/*.mp4 and truth/*.json."""
    episodes: int = 56
    """How many to film; episodes that are there already are kept."""
    seed: int = 0
    """Seed of the first episode; the others count up."""
    size_px: int = 128
    """Height and width of the frames."""
    fps: float = 16.0
    """Frames per second."""
    duration_s: float = 30.0
    """Least length of an episode."""
    held_out: bool = False
    """Film the combinations that are kept out of training."""


def truth_of(episode: world.Episode, size_px: int) -> dict[str, object]:
    """What is true of the episode at this frame size, ready for JSON; boxes are left, top, right, bottom in px."""
    first = episode.first_frames
    ends = [*first[1:], episode.num_frames]
    scenes = [
        {
            **dataclasses.asdict(scene),
            "first_frame": start,
            "end_frame": end,
            "caption": scene.caption,
            "image_caption": scene.image_caption,
            "speed_px_s": world.speed_px_s(scene, size_px, size_px, episode.fps),
            "text_boxes": [drawing.title_box(scene.title, scene.title_at_top, size_px, size_px)] if scene.title else [],
        }
        for scene, start, end in zip(episode.scenes, first, ends, strict=True)
    ]
    halves = [round(world.TRANSITION_S[kind] / 2 * episode.fps) for kind in episode.transitions]
    cuts = [
        {"frame": frame, "type": kind, "first_frame": frame - half, "end_frame": frame + half}
        for frame, kind, half in zip(first[1:], episode.transitions, halves, strict=True)
    ]
    captions = [episode.scenes[episode.scene_of_frame(i)].caption for i in range(episode.num_frames)]
    return {
        "seed": episode.seed,
        "held_out": episode.held_out,
        "size_px": size_px,
        "fps": episode.fps,
        "num_frames": episode.num_frames,
        "cuts": cuts,
        "scenes": scenes,
        "caption_of_frame": captions,
    }


def film_episode(config: Film, index: int) -> Path:
    """Film one episode; its truth is written last, so a file with truth is complete."""
    seed = config.seed + index
    episode = world.random_episode(seed, config.fps, config.duration_s, config.held_out)
    name = f"{'heldout' if config.held_out else 'episode'}_{seed:05d}"
    video, truth = config.output / "footage" / f"{name}.mp4", config.output / "truth" / f"{name}.json"
    if not (video.exists() and truth.exists()):
        write_video(video, world.frames(episode, config.size_px, config.size_px), episode.fps, gop_frames=48)
        truth.write_text(json.dumps(truth_of(episode, config.size_px)) + "\n")
    return video


def main(config: Film) -> None:
    for folder in ("footage", "truth"):
        (config.output / folder).mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(os.cpu_count(), mp_context=context) as pool:
        jobs = [pool.submit(film_episode, config, index) for index in range(config.episodes)]
        for job in track(jobs, "Filming toon episodes"):
            job.result()


if __name__ == "__main__":
    sys.exit(cli.run(main, Film))
