"""One diffusers pipeline folder with all that generation needs: models, prompts, scheduler, sizes; and the call."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import is_compiled_module
from einops import rearrange
from PIL import Image
from torch import nn
from transformers import PreTrainedTokenizerFast

from nuwa.generate.executors import LocalExecutor
from nuwa.generate.folder_pipeline import FolderPipeline
from nuwa.generate.long_video import Progress, frame_plan, generate_frames
from nuwa.generate.number_checks import is_number, is_whole
from nuwa.generate.samplers import SamplerName
from nuwa.generate.windows import Condition, FixedFrame, Sampling, WindowResult, WindowSampler, check_given, per_level
from nuwa.hierarchy import NuwaError, Window
from nuwa.models.mtd import MaskTemporalUNet
from nuwa.models.text import PromptEncoder
from nuwa.models.vae import TemporalVAE

Frames = list[list[Image.Image]] | np.ndarray | torch.Tensor
OnWindowEnd = Callable[[Window, WindowResult], None]


@dataclass
class NuwaXLPipelineOutput(BaseOutput):
    """One video, as diffusers' video pipelines hand out a batch of them.

    frames: `pil`, a list of one list of images; `np`, (1 n H W 3) in [0, 1]; `pt`, (1 n 3 H W) in [0, 1]; float32
    """

    frames: Frames


class NuwaXLPipeline(FolderPipeline):
    """The components of NUWA-XL and the sizes they were trained at; called, it makes a video.

    `denoiser_local=None`, or the same object as `denoiser_global`, means that one network serves all levels:
    it is then stored once and `denoiser_local` reads as None; `denoiser_at(level)` gives a level's network.
    `window_length` is L in frames, `train_fps` the frame rate of training, `height`, `width` its size in px.
    NuwaError for components that do not fit together.
    """

    _optional_components = ["denoiser_local"]  # noqa: RUF012  diffusers declares it as a plain class attribute

    def __init__(
        self,
        vae: TemporalVAE,
        denoiser_global: MaskTemporalUNet,
        text_encoder: PromptEncoder,
        tokenizer: PreTrainedTokenizerFast,
        scheduler: SchedulerMixin,
        denoiser_local: MaskTemporalUNet | None = None,
        window_length: int = 16,
        train_fps: float = 8.0,
        height: int = 32,
        width: int = 32,
    ) -> None:
        super().__init__()
        denoiser_local = None if denoiser_local is denoiser_global else denoiser_local
        check_classes(
            (
                ("vae", vae, TemporalVAE),
                ("denoiser_global", denoiser_global, MaskTemporalUNet),
                ("denoiser_local", denoiser_global if denoiser_local is None else denoiser_local, MaskTemporalUNet),
                ("text_encoder", text_encoder, PromptEncoder),
            )
        )
        _check_fit(vae, {"denoiser_global": denoiser_global, "denoiser_local": denoiser_local}, text_encoder)
        check_sizes(window_length, train_fps, height, width)
        check_fits_vae(vae, height, width)
        self.register_modules(
            vae=vae,
            denoiser_global=denoiser_global,
            denoiser_local=denoiser_local,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            scheduler=scheduler,
        )
        self.register_to_config(window_length=window_length, train_fps=train_fps, height=height, width=width)

    def denoiser_at(self, level: int) -> MaskTemporalUNet:
        """The denoiser of `level`; the local one when it exists and the level is not the global one."""
        return self.denoiser_local if level > 0 and self.denoiser_local is not None else self.denoiser_global

    @torch.no_grad()
    def __call__(
        self,
        prompts: str | Sequence[str],
        num_frames: int | None = None,
        num_inference_steps: int | Sequence[int] = 20,
        guidance_scale: float | Sequence[float] = 2.0,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        output_type: Literal["pil", "np", "pt"] = "pil",
        *,
        guidance_scale_last: float | None = None,
        sampler: SamplerName = "trained",
        depth: int | None = None,
        given: Mapping[int, FixedFrame] | None = None,
        condition: Condition = "pixels",
        batch_size: int = 4,
        fps: float | None = None,
        motion_score: float | None = None,
        tile_px: int | None = None,
        callback_on_window_end: OnWindowEnd | None = None,
        return_dict: bool = True,
    ) -> NuwaXLPipelineOutput | tuple[Frames]:
        """Make one video by diffusion over diffusion (NUWA-XL Sec. 3.3), on the device of the networks.

        prompts: one, one per frame, or fewer than frames, which are spread evenly
        num_frames: n; by default one window, or as many as there are prompts if those are more
        num_inference_steps: of the sampler; one number, or one per level, global first
        guidance_scale: 1 is none; one number for all levels, or one per level, global first
        guidance_scale_last: with it the scale grows over the frames of every window
        generator: one number is drawn from it as the seed of all windows; None draws from torch's own. As diffusers
            has it, also a list of one for the one video
        output_type: `pil`, `np` or `pt`, see `NuwaXLPipelineOutput`
        sampler: `trained`, the pipeline's own scheduler, or ddpm, ddim, dpm++, unipc on its noise schedule
        depth: levels, the global one included; by default the fewest that reach n
        given: number in the video → frame, latent (c h w) and pixels (3 H W), that the video has to contain
        condition: `pixels` or `latents`, see `Sampling`; batch_size: local windows per denoiser call
        fps: default `train_fps`; motion_score: mean optical flow in frame heights per second, None = not asked for
        tile_px: side of the tiles, in pixels, that the autoencoder takes large frames in; None = whole frames
        callback_on_window_end: called with every window and its result, latents (c l h w), when it is made
        return_dict: False for a plain tuple, (frames,)

        Returns the frames, see `NuwaXLPipelineOutput`. NuwaError, one line, for what cannot be made.
        """
        check_output_type(output_type)
        texts = listed(prompts)
        if depth is not None and not is_whole(depth):
            raise NuwaError(f"depth is {depth!r}; it must be a number above 0 and whole, or none")
        _check_numbers_of(given)
        plan = frame_plan(
            spread(texts, self._num_frames(len(texts), num_frames)), self.config.window_length, depth, given
        )
        sampling = Sampling(
            steps=per_level(num_inference_steps),
            guidance=per_level(guidance_scale),
            guidance_last=guidance_scale_last,
            sampler=sampler,
            seed=draw_seed(generator),
            batch=batch_size,
            fps=self.config.train_fps if fps is None else fps,
            motion_score=motion_score,
            condition=condition,
            tile_px=tile_px,
        )
        sampling.check_levels(len(plan.levels))
        check_given(self, plan.given)
        executor = _TellingExecutor(WindowSampler(self, sampling), callback_on_window_end)
        with self.progress_bar(total=sum(map(len, plan.levels)) - len(plan.given_windows)) as bar:

            def advance(progress: Progress) -> None:
                bar.update(progress.windows_done - bar.n)

            images = np.stack(list(generate_frames(plan, executor, on_progress=advance)))  # n H W 3
        frames = as_output(images, output_type)
        return NuwaXLPipelineOutput(frames=frames) if return_dict else (frames,)

    def _num_frames(self, num_prompts: int, num_frames: int | None) -> int:
        """Length of the video."""
        if num_frames is None:
            return max(self.config.window_length, num_prompts)
        if not is_whole(num_frames, 2):
            raise NuwaError(f"num_frames is {num_frames!r}; a video has at least 2, and a whole number of them")
        return num_frames


def listed(prompts: str | Iterable[str]) -> list[str]:
    """The prompts as a list; a single one too. NuwaError for what is no text."""
    if isinstance(prompts, str):
        return [prompts]
    if not isinstance(prompts, Iterable):
        raise NuwaError(f"prompts is {prompts!r}; give a string, or a list of them")
    texts = list(prompts)
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise NuwaError(f"prompt {number} is {text!r}; give a string (an empty one is a prompt too)")
    return texts


def spread(prompts: str | Sequence[str], num_frames: int) -> list[str]:
    """One prompt per frame: each of the given ones for the same time, to within a frame, in their order."""
    prompts = listed(prompts)
    if not prompts:
        raise NuwaError("a video without prompts cannot be made; give at least one (an empty string is a prompt)")
    if len(prompts) > num_frames:
        raise NuwaError(
            f"there are {len(prompts)} prompts for {num_frames} frames; give at most one per frame, or more frames"
        )
    return [prompts[frame * len(prompts) // num_frames] for frame in range(num_frames)]


def pick_device(name: str) -> str:
    """cpu or cuda as asked for; auto is cuda if there is one. Raises NuwaError for a device this machine lacks."""
    if name == "cuda" and not torch.cuda.is_available():
        raise NuwaError("device cuda: this machine offers no CUDA device; use cpu or auto")
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return name


class _TellingExecutor(LocalExecutor):
    """One device; tells of every window when it is made."""

    def __init__(self, sampler: WindowSampler, on_window_end: OnWindowEnd | None) -> None:
        super().__init__(sampler)
        self._on_window_end = on_window_end

    def collect(self) -> list[tuple[Window, WindowResult]]:
        done = super().collect()
        if self._on_window_end is not None:
            for window, result in done:
                self._on_window_end(window, result)
        return done


def draw_seed(generator: torch.Generator | Sequence[torch.Generator] | None) -> int:
    """The seed of all noise, from a generator or from torch's own. NuwaError for what is no generator."""
    if isinstance(generator, Sequence) and len(generator) == 1:
        generator = generator[0]
    if generator is not None and not isinstance(generator, torch.Generator):
        raise NuwaError(f"generator is {generator!r}; give one torch.Generator, or none")
    device = "cpu" if generator is None else generator.device
    return int(torch.randint(2**63 - 1, (), generator=generator, device=device))


def check_output_type(output_type: str) -> None:
    """Raise NuwaError for a kind of frames that there is not."""
    if output_type not in ("pil", "np", "pt"):
        raise NuwaError(f"output_type {output_type!r} is unknown; use pil, np or pt")


def as_output(images: np.ndarray, output_type: str) -> Frames:
    """uint8 (n H W 3) as `NuwaXLPipelineOutput` describes it."""
    if output_type == "pil":
        return [[Image.fromarray(image) for image in images]]
    scaled = images[None].astype(np.float32) / 255.0
    return scaled if output_type == "np" else rearrange(torch.from_numpy(scaled), "b n h w c -> b n c h w")


def _check_fit(vae: TemporalVAE, denoisers: Mapping[str, MaskTemporalUNet | None], text_encoder: PromptEncoder) -> None:
    """Raise NuwaError for networks of different widths."""
    for name, denoiser in denoisers.items():
        if denoiser is None:
            continue
        if denoiser.in_channels != vae.config.latent_channels:
            raise NuwaError(
                f"{name} takes latents of {denoiser.in_channels} channels, but vae makes "
                f"{vae.config.latent_channels}; use a vae and a denoiser that were trained together"
            )
        if denoiser.cross_attention_dim != text_encoder.width:
            raise NuwaError(
                f"{name} takes prompts of width {denoiser.cross_attention_dim}, but text_encoder makes "
                f"{text_encoder.width}; use the text encoder that the denoiser was trained with"
            )


def _check_numbers_of(given: Mapping[int, FixedFrame] | None) -> None:
    """Raise NuwaError for what is no mapping of frame numbers."""
    if given is None:
        return
    if not isinstance(given, Mapping):
        raise NuwaError(f"given is a {type(given).__name__}; give a mapping of frame numbers to FixedFrame")
    for number in given:
        if not is_whole(number, None):
            raise NuwaError(f"given has a frame {number!r}; give whole numbers, each with its FixedFrame")


def check_classes(needed: Sequence[tuple[str, Any, type[nn.Module]]]) -> None:
    """Raise NuwaError for a component, given with its name, of another class than is needed; it may be compiled."""
    for name, module, kind in needed:
        module = module._orig_mod if is_compiled_module(module) else module
        if not isinstance(module, kind):
            raise NuwaError(f"{name} is a {type(module).__name__}; a {kind.__name__} is needed, as training writes it")


def check_sizes(window_length: int, train_fps: float, height: int, width: int) -> None:
    """Raise NuwaError for numbers that no window and no frame can have."""
    rules = (
        ("window_length", window_length, is_whole(window_length, 3), "a whole number of frames, at least 3"),
        ("train_fps", train_fps, is_number(train_fps) and train_fps > 0, "a number of frames per second above 0"),
        ("height", height, is_whole(height), "a whole number of pixels above 0"),
        ("width", width, is_whole(width), "a whole number of pixels above 0"),
    )
    for name, size, fits, rule in rules:
        if not fits:
            raise NuwaError(f"{name} is {size!r}; it must be {rule}")


def check_fits_vae(vae: TemporalVAE, height: int, width: int) -> None:
    """Raise NuwaError for frames that the autoencoder cannot take."""
    factor = vae.downsample_factor
    if height % factor or width % factor:
        raise NuwaError(f"frames of {width}x{height} px do not fit vae; both sides must be multiples of {factor}")
