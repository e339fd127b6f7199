"""Draw how a long video comes about: its tree of windows, its frames level by level, and the inside of one window.

python -m pipelines.draw --model demo/weights/pipeline --story demo/story.yaml --output docs
"""

import sys
from dataclasses import dataclass
from pathlib import Path

from nuwa.hierarchy import NuwaError
from pipelines import cli


@dataclass(frozen=True, kw_only=True)
class Draw:
    """Draw the pictures of docs/nuwa.md, for this model and story."""

    model: Path
    """Pipeline folder."""
    story: Path
    """Story of prompts, in YAML."""
    output: Path
    """Folder for nuwa-tree.svg, nuwa-levels.png and nuwa-window.png."""
    frames: int | None = None
    """Length of the video whose frames are shown. Default: the story."""
    places: tuple[int, ...] = (2,)
    """Which window to enter at each level below the global one: the one after so many."""
    tree: tuple[int, int] = (50, 5)
    """Frames of the video and frames of a window in the picture of the tree."""
    batch: int = 4
    """Windows that run at once in the picture of the tree."""
    steps: int = 20
    """Sampler steps per window."""
    seed: int = 0
    frame_px: int = 60
    """Size of the frames shown."""


def main(config: Draw) -> None:
    """Draw the tree from the plan, sample the windows on the way down, draw them."""
    from nuwa.generate.frame_picture import draw_way_down, draw_window, way_down
    from nuwa.generate.long_video import frame_plan
    from nuwa.generate.pipeline_folder import load_pipeline
    from nuwa.generate.story import frame_prompts, load_story
    from nuwa.generate.tree_picture import draw_tree
    from nuwa.generate.windows import Sampling, WindowSampler

    story, pipe = load_story(config.story), load_pipeline(config.model)
    fps = story.fps or pipe.config.train_fps
    video = frame_plan(frame_prompts(story, fps, config.frames), pipe.config.window_length)
    _check_places(config.places, [len(level) for level in video.levels], video.length)
    sampler = WindowSampler(pipe, Sampling(steps=config.steps, seed=config.seed, fps=fps, batch=1))
    made = way_down(sampler, video, config.places)
    try:
        config.output.mkdir(parents=True, exist_ok=True)
        tree = draw_tree(*config.tree, batch=config.batch)
        (config.output / "nuwa-tree.svg").write_text(tree, "utf-8")
        draw_way_down(made, config.places, config.frame_px).save(config.output / "nuwa-levels.png", optimize=True)
        draw_window(sampler, made[-1], config.frame_px).save(config.output / "nuwa-window.png", optimize=True)
    except OSError as error:
        raise NuwaError(f"{config.output} cannot be written to ({error}); give another --output") from error
    print(f"{config.output}: nuwa-tree.svg, nuwa-levels.png, nuwa-window.png")


def _check_places(places: tuple[int, ...], counts: list[int], length: int) -> None:
    """Raise NuwaError for a way that leaves the tree."""
    if len(places) != len(counts) - 1:
        raise NuwaError(f"{len(places)} places for {len(counts) - 1} levels below the global one; give one for each")
    index = 0
    for place, count in zip(places, counts[1:], strict=True):
        index = index * (length - 1) + place
        if not 0 <= place < length - 1 or index >= count:
            raise NuwaError(f"place {place} is no window: a window has {length - 1} below it; the level has {count}")


if __name__ == "__main__":
    sys.exit(cli.run(main, Draw))
