"""What the stages of Lumiere show of themselves on the way: a clip of the first prompt, a small video made large."""

from collections.abc import Sequence

import numpy as np
import torch

from nuwa.data.runs import Run
from nuwa.generate.multidiffusion import Tiling
from nuwa.generate.one_pass import ClipSampler, ClipSampling
from nuwa.generate.stunet_pipeline import StunetPipeline
from nuwa.generate.super_resolution import Upsampling, upsample_video
from nuwa.train.clip_latents import ClipLatents
from nuwa.train.config import TrainConfig
from nuwa.train.samples import SAMPLER_STEPS, Shown, guidance_of, prompts_of, reconstruction, video_figures

NOISE_AUGMENTATION = 0.1
"""Of the small video, as in generation, if training has as much."""


def clip(pipe: StunetPipeline, runs: Sequence[Run], config: TrainConfig) -> Shown:
    """A whole clip of one prompt, text to video."""
    sampling = ClipSampling(
        steps=SAMPLER_STEPS, guidance=guidance_of(config), seed=config.seed, fps=pipe.config.train_fps
    )
    sampler = ClipSampler(pipe, sampling)
    latents = sampler.sample(prompts_of(runs, 1) * config.window_length)
    frames = np.stack(list(sampler.frames(latents)))
    return Shown(frames, pipe.config.train_fps, video_figures(frames))


def enlarged_window(
    pipe: StunetPipeline,
    latents: ClipLatents,
    video: torch.Tensor,
    condition: torch.Tensor,
    tokens: torch.Tensor,
    fps: float,
    config: TrainConfig,
) -> Shown:
    """A window (1 3 t H W) beside what is made of its small version.

    condition: (1 c t h w), latents of the small version enlarged; tokens: (1 + t n d), the empty prompt, then those of
    all frames; fps: of the window
    """
    upsampling = Upsampling(
        steps=SAMPLER_STEPS,
        seed=config.seed,
        noise_augmentation=min(NOISE_AUGMENTATION, config.ssr_noise),
        fps=fps,
        tiling=Tiling(frames=config.window_length, frame_overlap=min(2, config.window_length - 1)),
    )
    made = upsample_video(pipe.ssr, pipe.scheduler, condition, tokens[None, 1:], tokens[0], upsampling)
    return reconstruction(video, latents.decode(made), fps)
