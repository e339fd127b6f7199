"""What a user may ask of an evaluation. Reading it imports no torch."""

import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from nuwa.hierarchy import NuwaError

Metric = Literal[
    "avg_fid", "fid", "avg_kid", "b_fvd", "fvd", "b_kvd", "clipsim", "flicker", "warp", "sharpness", "seams"
]
METRICS: tuple[Metric, ...] = (
    "avg_fid",
    "fid",
    "avg_kid",
    "b_fvd",
    "fvd",
    "b_kvd",
    "clipsim",
    "flicker",
    "warp",
    "sharpness",
    "seams",
)
OF_FRAMES = ("avg_fid", "fid", "avg_kid")
OF_BLOCKS = ("b_fvd", "fvd", "b_kvd")
DEMO_CLIP = Path(__file__).parents[2] / "demo" / "weights" / "coca"


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    real: Path
    """Dataset written by pipelines.curate (its runs are read), or a folder of videos."""
    generated: Path
    """Folder of generated videos, with the .json of pipelines.generate beside each for prompts and seams."""
    output: Path
    """JSON file to write."""
    metrics: tuple[Metric, ...] = ()
    """Figures to compute; one that cannot be had is an error. Default: all that the videos allow, with the reason for
    each one left out."""
    frames: int | None = None
    """Length of the clips, in frames; real videos are cut into as many as they hold. Default: the shortest generated
    video."""
    fps: float | None = None
    """Frame rate of the clips, 1/s. Default: that of the generated videos."""
    size: tuple[int, int] | None = None
    """Height and width of the clips in px; videos are cropped and scaled down to it. Default: the generated ones'."""
    block: int = 16
    """Frames of a block, the X of B-FVD-X."""
    positions: int = 16
    """Frames of each clip, evenly spread, that Avg-FID and CLIPSIM judge; neighbours say the same again."""
    feature_width: int | None = None
    """Keep this many principal directions (of the real set) of wider features, for sets of few videos."""
    inception: Path | None = None
    """Weights of Inception v3, FID's own or torchvision's. Default: toy features, embeddings of --clip."""
    i3d: Path | None = None
    """Weights of I3D (Kinetics-400 RGB). Default: toy features, random 3-D convolutions."""
    clip: Path = DEMO_CLIP
    """open_clip model folder for CLIPSIM and toy features."""
    flow: Literal["dis", "farneback"] = "dis"
    """Optical flow for flicker and warp error."""
    real_videos: int | None = None
    """Judge at most this many real clips, evenly spread over the set."""
    bootstrap: int = 200
    """Resamples for the intervals; 0 for none."""
    splits: int = 10
    """Random splits of the real clips for the real-against-real floor."""
    seed: int = 0
    """Of resamples and splits."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where feature networks run: cpu, cuda, or auto, which takes cuda if there is one."""

    @property
    def wanted(self) -> tuple[Metric, ...]:
        """Metrics to try, in the order of the report."""
        return tuple(name for name in METRICS if name in self.metrics or not self.metrics)


def check_config(config: EvaluateConfig) -> None:
    """Raise NuwaError for settings that mean nothing, before anything is read or loaded."""
    least = {"frames": 2, "block": 1, "positions": 1, "feature_width": 1, "real_videos": 1, "bootstrap": 0, "splits": 1}
    for entry in fields(config):
        value = getattr(config, entry.name)
        flag = f"--{entry.name.replace('_', '-')}"
        if isinstance(value, float) and not (math.isfinite(value) and value > 0):
            raise NuwaError(f"{flag} is {value}; give a number above 0")
        if entry.name in least and value is not None and value < least[entry.name]:
            raise NuwaError(f"{flag} is {value}; give {least[entry.name]} or more")
    if config.output.suffix != ".json" or config.output.is_dir():
        raise NuwaError(f"output {config.output} is not the name of a .json file; give --output metrics.json")
    for path, flag in ((config.inception, "--inception"), (config.i3d, "--i3d")):
        if path is not None and not path.is_file():
            raise NuwaError(f"{flag} {path} is not a file; give the weights' path, or leave it away for toy features")
