"""The picture of the README: frames of a generated video, row by row, above the prompts they were made from.

python -m demo.picture --video runs/demo/story.mp4 --output docs/story.png
"""

import json
import sys
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from curation.config_error import CurationError
from curation.video import decode
from pipelines import cli

Image = NDArray[np.uint8]
FRAME_PX = 96
LABEL_PX = 22
INK, PAPER = (40, 40, 48), 255


@dataclass(frozen=True, kw_only=True)
class Picture:
    """Draw frames of a generated video above their prompts."""

    video: Path
    """mp4 written by pipelines.generate, its .json beside it."""
    output: Path
    """PNG to write."""
    per_prompt: int = 5
    """Frames shown of every prompt."""
    columns: int = 2
    """Prompts side by side."""


def panel(frames: list[Image], prompt: str) -> Image:
    """Frames side by side with the prompt under them."""
    small = [cv2.resize(frame, (FRAME_PX, FRAME_PX), interpolation=cv2.INTER_AREA) for frame in frames]
    label = np.full((LABEL_PX, FRAME_PX * len(small), 3), PAPER, np.uint8)
    cv2.putText(label, prompt, (2, LABEL_PX - 7), cv2.FONT_HERSHEY_SIMPLEX, 0.45, INK, 1, cv2.LINE_AA)
    return np.asarray(np.vstack([np.hstack(small), label]), np.uint8)


def main(config: Picture) -> None:
    """Read the record beside the video, choose frames evenly within every prompt, and write the picture."""
    if not config.video.with_suffix(".json").is_file():
        raise CurationError(f"{config.video} has no .json beside it: give a video that pipelines.generate wrote")
    prompts: list[str] = json.loads(config.video.with_suffix(".json").read_text())["prompts"]
    frames = [frame.image for frame in decode(str(config.video))]
    panels, first = [], 0
    for prompt, group in groupby(prompts):
        last = first + len(list(group)) - 1
        chosen = np.linspace(first, last, config.per_prompt).round().astype(int)
        panels.append(panel([frames[i] for i in chosen], prompt))
        first = last + 1
    blank = np.full_like(panels[0], PAPER)
    panels += [blank] * (-len(panels) % config.columns)
    gap = np.full((panels[0].shape[0], 10, 3), PAPER, np.uint8)
    rows = [
        np.hstack([part for shown in panels[i : i + config.columns] for part in (shown, gap)][:-1])
        for i in range(0, len(panels), config.columns)
    ]
    config.output.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(config.output), np.vstack(rows)[..., ::-1])


if __name__ == "__main__":
    sys.exit(cli.run(main, Picture))
