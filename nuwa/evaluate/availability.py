"""Which figures the videos at hand allow, and for each of the others one line that says why not and what would help."""

from collections.abc import Sequence
from dataclasses import dataclass

from nuwa.evaluate.config import OF_BLOCKS, OF_FRAMES, Metric
from nuwa.evaluate.decoding import Format
from nuwa.evaluate.flow import SMALLEST_PX


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What figures depend on. Widths are of the feature networks; 0 for one that is not loaded.

    real_sources: videos that the real clips were cut from. windows: length and depth, None when not known
    """

    real: int
    real_sources: int
    generated: int
    prompts: bool
    windows: tuple[int, int] | None
    wanted: Format
    positions: int
    block: int
    feature_width: int | None
    image_width: int
    video_width: int
    shortest_block: int

    @property
    def blocks(self) -> int:
        """Whole blocks in a clip."""
        return self.wanted.frames // self.block

    def kept_width(self, width: int) -> int:
        """Width of features in a Fréchet distance."""
        return width if self.feature_width is None else min(width, self.feature_width)


def reasons_against(metrics: Sequence[Metric], inputs: Inputs) -> dict[str, str]:
    """Metric → why it cannot be had; those that can are not in it."""
    found = {name: _reason(name, inputs) for name in metrics}
    return {name: reason for name, reason in found.items() if reason is not None}


def _reason(name: Metric, inputs: Inputs) -> str | None:
    if name in OF_BLOCKS and (reason := _against_blocks(inputs)):
        return reason
    if name in OF_FRAMES or name in OF_BLOCKS:
        return _against_counts(name, inputs)
    if name in ("flicker", "warp") and min(inputs.wanted.height, inputs.wanted.width) < SMALLEST_PX:
        return f"frames of {inputs.wanted.height}x{inputs.wanted.width} px are too small for optical flow; it needs 16"
    if name == "clipsim" and not inputs.prompts:
        return "no generated video has prompts; put the .json of pipelines.generate beside each"
    if name == "seams" and inputs.windows is None:
        return (
            "the windows are not known or differ: needs the .json of pipelines.generate beside every video, one window "
            "length, one depth above 1, and the videos' own frame rate"
        )
    if name == "seams" and inputs.wanted.frames < 3:
        return "a seam shows in 3 frames or more; give --frames 3 or more"
    return None


def _against_blocks(inputs: Inputs) -> str | None:
    if inputs.blocks < 1:
        return f"clips of {inputs.wanted.frames} frames hold no block of {inputs.block}; give --block less"
    if inputs.block < inputs.shortest_block:
        return f"the video features read {inputs.shortest_block} frames or more; give --block {inputs.shortest_block}"
    return None


def _against_counts(name: Metric, inputs: Inputs) -> str | None:
    """A covariance needs more features than they are wide, an unbiased mean over pairs two sources."""
    if min(inputs.real_sources, inputs.generated) < 2:
        return f"{inputs.real_sources} real and {inputs.generated} generated videos; give at least 2 of each"
    if name in ("avg_kid", "b_kvd"):
        return None
    fewest, width = min(inputs.real, inputs.generated), inputs.image_width if name in OF_FRAMES else inputs.video_width
    kept = inputs.kept_width(width)
    per_video = 1
    if name in ("fid", "fvd"):
        per_video = inputs.positions if name == "fid" else inputs.blocks
    if fewest * per_video > kept:
        return None
    kid = "avg_kid" if name in OF_FRAMES else "b_kvd"
    return (
        f"{inputs.real} real and {inputs.generated} generated clips give {fewest * per_video} features for a "
        f"covariance of width {kept}; give at least {-(-(kept + 1) // per_video)} of each, or --feature-width "
        f"{fewest * per_video - 1} or less, or take {kid}, which needs 2"
    )
