"""What a user may ask of a generated video. Reading it imports no torch."""

import math
import shlex
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Literal

from nuwa.hierarchy import NuwaError

Mode = Literal["text", "image", "inpaint", "outpaint", "cinemagraph", "extend"]

_MOST_DEPTH = 100
"""Levels that are looked at: even windows of 3 frames reach the longest video with 25."""


@dataclass(frozen=True, kw_only=True)
class GenerateConfig:
    """Generate a video from prompts; the same command again resumes.

    The folder decides how: NUWA-XL makes a long video of a story (docs/nuwa.md), a space-time U-Net a clip in one pass
    (docs/lumiere.md).
    """

    model: Path
    """Pipeline folder: the `model` of a training run."""
    prompt: str | None = None
    """One prompt for all frames, in place of a story."""
    story: Path | None = None
    """YAML: `fps: 8` and `scenes:`, a list of `{prompt: text, seconds: number}` or `{prompt, start, end}`; see
    docs/nuwa.md for prompts of single levels and for given images."""
    output: Path
    """File to write: .mp4, .gif, or a name without a suffix for a folder of PNG images. All that is needed to repeat
    it goes into the .json beside it."""
    frames: int | None = None
    """Length of the video in frames; crops the story or extends its last prompt. Default: the story; for a --prompt as
    many as the model was trained on; as many as a --video has that is painted into."""
    depth: int | None = None
    """Levels, the global one included. Default: the fewest that reach the length."""
    steps: tuple[int, ...] = (20,)
    """Sampler steps per window: one number, or one per level, global first."""
    guidance: tuple[float, ...] = (2.0,)
    """Classifier-free guidance scale, 1 is none: one number, or one per level, global first."""
    guidance_last: float | None = None
    """Scale at the last frame of a window: it grows linearly from --guidance. Default: the same at all frames."""
    sampler: Literal["trained", "ddpm", "ddim", "dpm++", "unipc"] = "trained"
    """How noise becomes video; trained is the one in the pipeline folder."""
    condition: Literal["pixels", "latents"] = "pixels"
    """How known frames are shown to the network: encoded from pixels as in the paper, or their latents as they are,
    which saves the encoder."""
    seed: int = 0
    batch: int | None = None
    """Windows sampled at once; results are bitwise equal at one batch size, not across them. Default: 8 local windows
    of NUWA-XL, 1 window of a clip that is longer than its model was trained for."""
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
    mode: Mode = "text"
    """What a space-time U-Net makes its clip from, beside the prompt: nothing, the first frame, a video with a part to
    be painted anew, or to be continued beyond its borders, an image of which a part moves, a video to go on from."""
    image: Path | None = None
    """Image of --mode image and cinemagraph."""
    video: Path | None = None
    """Video of --mode inpaint, outpaint and extend."""
    mask: Path | None = None
    """Mask of --mode inpaint and cinemagraph: an image, or a video, white where pixels are to be made."""
    place: tuple[int, int, int, int] | None = None
    """Left, top, width and height, in pixels of the model's frame, of the box that --mode outpaint puts its video into.
    Default: the video's own size, in the middle."""
    put_back: bool = False
    """Put known pixels back after decoding, exactly as they were given; a model of pixels keeps them anyway."""
    overlap: int | None = None
    """Frames that windows share where a clip is longer than its model was trained for. Default: half of a window."""
    style: Path | None = None
    """U-Net fine-tuned on a style from the one that the model was made of; or a pipeline folder that has it."""
    style_strength: float = 0.75
    """How far the spatial weights go from the model's own, 0, to those of --style, 1."""
    fit: Literal["exact", "scale", "crop"] = "exact"
    """What becomes of given pictures of another size than the model's: refused; scaled, if they have its aspect; or
    scaled to cover and cropped."""
    upscale: int = 1
    """Repeat every pixel this often in both directions: small frames keep their colours in yuv420p. With --ssr: how
    many times larger that makes a side; by default as it was trained."""
    ssr: Path | None = None
    """Pipeline folder whose super-resolution makes the frames larger."""
    ssr_steps: int = 20
    """Sampler steps of --ssr."""
    ssr_noise: float | None = None
    """Noise on the small frames that --ssr sees, from 0 to as much as it was trained with; it hides their faults.
    Default: 0.1, or as much as it was trained with if that is less."""
    ssr_tile_px: int | None = None
    """Side of the tiles, in pixels, that --ssr takes large frames in. Default: whole frames."""
    ssr_segment: int = 64
    """Frames that --ssr makes at once; memory follows it, and not the length of the video."""
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
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, float) and not math.isfinite(number):
                raise NuwaError(f"--{_flag(entry.name)} is {number}; give a number")
    for name in ("workers", "batch"):
        number = getattr(config, name)
        if number is not None and number < 1:
            raise NuwaError(f"{name} is {number}; give 1 or more")
    if config.depth is not None and config.depth > _MOST_DEPTH:
        raise NuwaError(f"depth {config.depth} is more than any video needs; leave --depth out for the fewest levels")
    for name in ("steps", "guidance"):
        if not getattr(config, name):
            raise NuwaError(f"--{name} has no number; give one, or one per level")
    if not config.output.name:
        raise NuwaError(f"output {config.output} has no name; give a file to write")


def check_options(config: GenerateConfig, one_pass: bool) -> None:
    """Raise NuwaError for options that mean nothing to the model of the folder, so that none is passed over.

    one_pass: the folder has a space-time U-Net; else it is one of NUWA-XL
    """
    for name in _NUWA_XL_ONLY if one_pass else _ONE_PASS_ONLY:
        if _is_given(config, name):
            kind, other = ("has a space-time U-Net", "NUWA-XL") if one_pass else ("is one of NUWA-XL", "a STUNet")
            hint = _INSTEAD.get(name, "leave it out")
            raise NuwaError(f"--{_flag(name)} is for folders of {other}, and {config.model} {kind}; {hint}")
    for owner, names in (("ssr", _OF_SSR), ("style", ("style_strength",))):
        for name in names:
            if _is_given(config, name) and getattr(config, owner) is None:
                raise NuwaError(f"--{_flag(name)} does nothing without --{owner}; give both or neither")
    if (config.prompt is None) == (config.story is None):
        what = "neither --prompt nor --story is" if config.prompt is None else "both --prompt and --story are"
        raise NuwaError(f"{what} given; give one of them")


_NUWA_XL_ONLY = ("depth", "condition", "workers", "ray_address", "first_frame", "storyboard", "extend")
_ONE_PASS_ONLY = ("mode", "image", "video", "mask", "place", "put_back", "overlap", "style", "style_strength")
_OF_SSR = ("ssr_steps", "ssr_noise", "ssr_tile_px", "ssr_segment")
_INSTEAD = {
    "first_frame": "ask for --mode image --image",
    "extend": "ask for --mode extend --video",
    "mode": "leave it out, or start from pictures by --first-frame, --storyboard or --extend",
}
"""What to do with an option of the other kind of folder, where there is more to say than to leave it out."""


def _is_given(config: GenerateConfig, name: str) -> bool:
    """Whether an option has another value than its default."""
    return bool(getattr(config, name) != next(entry.default for entry in fields(config) if entry.name == name))


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
