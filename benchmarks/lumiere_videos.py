"""Videos that the comparison of one pass with keyframes and infilling looks at: drawn, and made by either model."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from benchmarks.hero_phase import Video
from benchmarks.seams import draw
from benchmarks.window_borders import Errors, border_errors
from demo import world
from nuwa.diffusion.guidance import guided
from nuwa.diffusion.objective import Denoiser
from nuwa.generate.executors import LocalExecutor
from nuwa.generate.large_video import Enlarger, Enlarging
from nuwa.generate.long_video import frame_plan, generate_frames
from nuwa.generate.multidiffusion import Tiling, multidiffusion
from nuwa.generate.one_pass import ClipSampler, ClipSampling, clip_noise
from nuwa.generate.pipeline import NuwaXLPipeline
from nuwa.generate.samplers import Sampler, denoise
from nuwa.generate.stunet_pipeline import StunetPipeline
from nuwa.generate.super_resolution import Upsampling, upsample_video
from nuwa.generate.windows import Sampling, WindowSampler, noise_generator
from nuwa.models.mtd import MaskTemporalUNet
from nuwa.models.ssr import SuperResolutionUNet
from nuwa.models.stunet import SpaceTimeUNet


@dataclass(frozen=True)
class Walk:
    """What both models have in common: sampler steps and guidance."""

    steps: int
    guidance: float


def by_keyframes(pipe: NuwaXLPipeline, prompts: list[str], walk: Walk, seed: int) -> Video:
    """Diffusion over diffusion (n h w 3): keyframes `window_length` − 1 frames apart, windows between them."""
    sampling = Sampling(steps=walk.steps, guidance=walk.guidance, seed=seed, batch=8, fps=float(pipe.config.train_fps))
    executor = LocalExecutor(WindowSampler(pipe, sampling))
    return np.stack(list(generate_frames(frame_plan(prompts, pipe.config.window_length), executor)))


def by_one_pass(pipe: StunetPipeline, prompts: list[str], walk: Walk, seed: int) -> Video:
    """The whole clip at once (n h w 3)."""
    sampling = ClipSampling(steps=walk.steps, guidance=walk.guidance, seed=seed, fps=float(pipe.config.train_fps))
    sampler = ClipSampler(pipe, sampling)
    return np.stack(list(sampler.frames(sampler.sample(prompts))))


def inflated(pipe: NuwaXLPipeline) -> StunetPipeline:
    """A space-time U-Net and a super-resolution of the image weights in `pipe`, untrained: to try things out."""
    unet = pipe.denoiser_global.image_unet()
    return StunetPipeline(
        stunet=SpaceTimeUNet.from_unet(unet).eval(),
        text_encoder=pipe.text_encoder,
        tokenizer=pipe.tokenizer,
        scheduler=pipe.scheduler,
        vae=pipe.vae,
        ssr=SuperResolutionUNet.from_unet(unet).eval(),
        window_length=pipe.config.window_length,
        train_fps=pipe.config.train_fps,
        height=pipe.config.height,
        width=pipe.config.width,
    )


@dataclass(frozen=True)
class Join:
    """A way to put windows together."""

    name: str
    overlap: int
    weights: str = "count"

    def tiling(self, length: int) -> Tiling:
        """Windows of `length` frames, joined this way."""
        return Tiling(
            frames=length, frame_overlap=self.overlap, batch=4, weights="ramp" if self.weights == "ramp" else "count"
        )


@torch.no_grad()
def borders_of_sampling(
    pipe: NuwaXLPipeline | StunetPipeline, scenes: Sequence[world.Scene], frames: int, join: Join, walk: Walk
) -> list[Errors]:
    """Border errors of videos made from nothing but a prompt, longer than a window; of the network's own output."""
    network: MaskTemporalUNet | SpaceTimeUNet
    network = pipe.denoiser_at(1) if isinstance(pipe, NuwaXLPipeline) else pipe.stunet
    factor = 1 if pipe.vae is None else pipe.vae.downsample_factor
    size = (pipe.config.height // factor, pipe.config.width // factor)
    null, found = pipe.encode_prompts([""])[0], []
    for seed, scene in enumerate(scenes):
        tokens = pipe.encode_prompts([scene.caption])[0].expand(1, frames, -1, -1)
        joined = guided(multidiffusion(network, join.tiling(pipe.config.window_length)), walk.guidance, null)
        noise = clip_noise(seed, torch.Size((1, network.in_channels, frames, *size)))
        sampler = Sampler(pipe.scheduler, "trained", walk.steps, torch.device("cpu"))
        predict = _predictor(joined, tokens, noise, float(pipe.config.train_fps))
        generators = [noise_generator(seed, "borders", 0, 0)]
        made = denoise(predict, sampler, noise, 0 * noise, 0 * noise[:, :1], generators)
        found.append(border_errors(made[0], pipe.config.window_length, join.overlap))
    return found


def _predictor(
    joined: Denoiser, tokens: torch.Tensor, noise: torch.Tensor, fps: float
) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """`joined` with nothing known, at stride 1."""
    numbers = torch.tensor([[fps, float("nan"), 0.0]])

    def predict(zt: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
        return joined(zt, steps, tokens, 0 * noise, 0 * noise[:, :1], torch.ones(1), numbers)

    return predict


@torch.no_grad()
def borders_of_super_resolution(
    pipe: StunetPipeline, small_like: NuwaXLPipeline, scenes: Sequence[world.Scene], frames: int, join: Join, walk: Walk
) -> list[Errors]:
    """Border errors of drawn videos of `frames` frames made larger in windows, of the network's own output."""
    length, null, found = int(pipe.config.ssr_length), pipe.encode_prompts([""])[0], []
    upsampling = Upsampling(steps=walk.steps, fps=float(pipe.config.train_fps), tiling=join.tiling(length))
    enlarger = Enlarger(pipe, Enlarging(upsampling=Upsampling(), scale=int(pipe.config.ssr_scale)))
    for scene in scenes:
        large = enlarger.large(list(draw([scene] * frames, small_like)))
        tokens = pipe.encode_prompts([scene.caption])[0].expand(1, frames, -1, -1)
        made = upsample_video(pipe.ssr, pipe.scheduler, large, tokens, null, upsampling)
        found.append(border_errors(made[0], length, join.overlap))
    return found
