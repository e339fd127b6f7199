"""What a user may ask of a generated video. Reading it imports no torch."""

import math
import shlex
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Literal

from nuwa.hierarchy import NuwaError

_MOST_DEPTH = 100
"""Levels that are looked at: even windows of 3 frames reach the longest video with 25."""


@dataclass(frozen=True, kw_only=True)
class GenerateConfig:
    """Generate a long video from a story of prompts; the same command again resumes. docs/nuwa.md shows how."""

    model: Path
    """Pipeline folder: the `model` of a training run."""
    story: Path
    """YAML: `fps: 8` and `scenes:`, a list of `{prompt: text, seconds: number}` or `{prompt, start, end}`; see
    docs/nuwa.md for prompts of single levels and for given images."""
    output: Path
    """File to write: .mp4, .gif, or a name without a suffix for a folder of PNG images. All that is needed to repeat
    it goes into the .json beside it."""
    frames: int | None = None
    """Length of the video in frames; crops the story or extends its last prompt. Default: the story."""
    depth: int | None = None
    """Levels, the global one included. Default: the fewest that reach the length."""
    steps: tuple[int, ...] = (20,)
    """Sampler steps per window: one number, or one per level, global first."""
    guidance: float = 4.0
    """Classifier-free guidance scale; 1 is none."""
    guidance_last: float | None = None
    """Scale at the last frame of a window: it grows linearly from --guidance. Default: the same at all frames."""
    sampler: Literal["trained", "ddpm", "ddim", "dpm++", "unipc"] = "trained"
    """How noise becomes video; trained is the one in the pipeline folder."""
    condition: Literal["pixels", "latents"] = "pixels"
    """How known frames are shown to the network: encoded from pixels as in the paper, or their latents as they are,
    which saves the encoder."""
    seed: int = 0
    batch: int = 8
    """Local windows sampled at once; results are bitwise equal at one batch size, not across them."""
    workers: int = 1
    """Processes that sample windows, as Ray actors if there is more than one; the result does not depend on it."""
    ray_address: str | None = None
    """Ray cluster to work on, `auto` for the one of this machine. Default: start one for as long as it takes."""
    fps: float | None = None
    """Frames per second. Default: the story's, else the model's."""
    motion_score: float | None = None
    """Motion to ask for: mean optical flow in frame heights per second. Default: not asked for."""
    first_frame: Path | None = None
    """Image that the video begins with."""
    storyboard: Path | None = None
    """Folder of images that the video passes: all numbered, `frame-000015.png` is frame 15, or all of other names and
    spread over the keyframes in their order."""
    extend: Path | None = None
    """Video to go on from: it becomes the beginning, and the story and --frames count from its start."""
    fit: Literal["exact", "crop"] = "exact"
    """What becomes of given pictures of another size than the model's: refused, or scaled to cover and cropped."""
    upscale: int = 1
    """Repeat every pixel this often in both directions: small frames keep their colours in yuv420p."""
    tile_px: int | None = None
    """Side of the tiles, in pixels, that the autoencoder takes large frames in, so that its memory does not grow with
    them; another video than with whole frames, the default."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """cpu, cuda, or auto: cuda if there is one."""
    keep_windows: bool = False
    """Keep the folder of finished windows when the video is complete."""

    @property
    def work_folder(self) -> Path:
        """Finished windows of a video that is not complete yet."""
        return work_folder(self.output)


def work_folder(output: Path) -> Path:
    """Where finished windows of `output` are kept until it is complete."""
    return output.with_name(f"_{output.stem}.windows")


def check_numbers(config: GenerateConfig) -> None:
    """Raise NuwaError for numbers that mean nothing, before anything is loaded."""
    for entry in fields(config):
        value = getattr(config, entry.name)
        if isinstance(value, float) and not math.isfinite(value):
            raise NuwaError(f"--{_flag(entry.name)} is {value}; give a number")
    for name in ("workers", "batch"):
        if getattr(config, name) < 1:
            raise NuwaError(f"{name} is {getattr(config, name)}; give 1 or more")
    if config.depth is not None and config.depth > _MOST_DEPTH:
        raise NuwaError(f"depth {config.depth} is more than any video needs; leave --depth out for the fewest levels")
    if not config.steps:
        raise NuwaError("--steps has no number; give one, or one per level")
    if not config.output.name:
        raise NuwaError(f"output {config.output} has no name; give a file to write")


def command_line(config: GenerateConfig) -> str:
    """The command that asks for the same again; options at their default are left out."""
    words = ["python", "-m", "pipelines.generate"]
    for entry in fields(config):
        value = getattr(config, entry.name)
        if entry.default is MISSING or value != entry.default:
            values = value if isinstance(value, tuple) else (value,)
            words += [f"--{_flag(entry.name)}", *([] if value is True else map(str, values))]
    return shlex.join(words)


def _flag(name: str) -> str:
    return name.replace("_", "-")
