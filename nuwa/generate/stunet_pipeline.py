"""One diffusers pipeline folder with all that Lumiere's one pass needs: networks, prompts, scheduler, sizes."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from transformers import PreTrainedTokenizerFast

from nuwa.generate.folder_pipeline import FolderPipeline
from nuwa.generate.masks import Known
from nuwa.generate.number_checks import is_share, is_whole
from nuwa.generate.one_pass import ClipSampler, ClipSampling
from nuwa.generate.pipeline import (
    Frames,
    NuwaXLPipelineOutput,
    as_output,
    check_classes,
    check_fits_vae,
    check_output_type,
    check_sizes,
    draw_seed,
    listed,
    spread,
)
from nuwa.generate.pipeline_folder import StoredPipeline, read_pipeline, save_pipeline, stored_as, weights_fingerprint
from nuwa.generate.samplers import SamplerName
from nuwa.hierarchy import NuwaError
from nuwa.models.ssr import SuperResolutionUNet
from nuwa.models.stunet import FPS, NUM_FRAMES, SpaceTimeUNet
from nuwa.models.text import PromptEncoder
from nuwa.models.vae import TemporalVAE

PIXEL_CHANNELS = 3
SSR_NOISE = 0.5
"""Noise that a super-resolution has learned from at most, where its folder does not say: the default of training."""


class StunetPipeline(FolderPipeline):
    """The components of Lumiere (arXiv 2401.12945) and the sizes they were trained at.

    `vae=None` means a network of pixels, as in the paper; with one, `stunet` and `ssr` work on its scaled latents.
    `ssr=None` means that nothing makes the clip larger. `window_length` is the frames of a training clip, `train_fps`
    their rate, `height`, `width` their size in px; `ssr_scale` says how many times larger `ssr` makes a side, and
    `ssr_length` how many frames of a window it was trained on, `ssr_noise` with how much noise at most, 0 to 1.
    NuwaError for components that do not fit together.
    """

    _optional_components = ["vae", "ssr"]  # noqa: RUF012  diffusers declares it as a plain class attribute

    def __init__(
        self,
        stunet: SpaceTimeUNet,
        text_encoder: PromptEncoder,
        tokenizer: PreTrainedTokenizerFast,
        scheduler: SchedulerMixin,
        vae: TemporalVAE | None = None,
        ssr: SuperResolutionUNet | None = None,
        window_length: int = NUM_FRAMES,
        train_fps: float = FPS,
        height: int = 128,
        width: int = 128,
        ssr_scale: int = 2,
        ssr_length: int = 16,
        ssr_noise: float = SSR_NOISE,
    ) -> None:
        super().__init__()
        _check_classes(vae, stunet, ssr, text_encoder)
        _check_fit(vae, {"stunet": stunet, "ssr": ssr}, text_encoder)
        check_sizes(window_length, train_fps, height, width)
        _check_enlarging(ssr_scale, ssr_length, ssr_noise)
        if vae is not None:
            check_fits_vae(vae, height, width)
        self.register_modules(
            vae=vae,
            stunet=stunet,
            ssr=ssr,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            scheduler=scheduler,
        )
        self.register_to_config(
            window_length=window_length,
            train_fps=train_fps,
            height=height,
            width=width,
            ssr_scale=ssr_scale,
            ssr_length=ssr_length,
            ssr_noise=ssr_noise,
        )

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[str],
        num_frames: int | None = None,
        num_inference_steps: int = 20,
        guidance_scale: float = 2.0,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        output_type: Literal["pil", "np", "pt"] = "pil",
        *,
        guidance_scale_last: float | None = None,
        sampler: SamplerName = "trained",
        known: Known | None = None,
        overlap: int | None = None,
        fps: float | None = None,
        motion_score: float | None = None,
        tile_px: int | None = None,
        return_dict: bool = True,
    ) -> NuwaXLPipelineOutput | tuple[Frames]:
        """Make one clip in one pass (Lumiere Sec. 3.1, 4), on the device of the networks.

        prompt: one, one per frame, or fewer than frames, which are spread evenly
        num_frames: default `window_length`, or as many as there are prompts if those are more; a longer clip is
            sampled in windows that share `overlap` frames, half of a window by default
        known: what is given, by `nuwa.generate.masks`; None = nothing, text to video
        The others, the frames returned and the errors are those of `NuwaXLPipeline`.
        """
        check_output_type(output_type)
        texts = listed(prompt)
        count = max(self.config.window_length, len(texts)) if num_frames is None else num_frames
        if not is_whole(count):
            raise NuwaError(f"num_frames is {count!r}; a clip has a whole number of them, at least 1")
        sampling = ClipSampling(
            steps=num_inference_steps,
            guidance=guidance_scale,
            guidance_last=guidance_scale_last,
            sampler=sampler,
            seed=draw_seed(generator),
            overlap=overlap,
            fps=self.config.train_fps if fps is None else fps,
            motion_score=motion_score,
            tile_px=tile_px,
        )
        clip = ClipSampler(self, sampling)
        with self.progress_bar(total=num_inference_steps) as bar:
            latents = clip.sample(spread(texts, count), known, on_step=lambda done, _: bar.update(done - bar.n))
        frames = as_output(np.stack(list(clip.frames(latents))), output_type)
        return NuwaXLPipelineOutput(frames=frames) if return_dict else (frames,)


def save_stunet(pipe: StunetPipeline, folder: str | Path, dtype: torch.dtype | None = None) -> None:
    """Write a complete folder in place of `folder`, at once; `dtype` is that of the weights on disk.

    Raises NuwaError when there is no room, or when the folder holds something else; it is then as it was.
    """
    save_pipeline(pipe, folder, dtype)


def load_stunet(folder: str | Path, *, weights_sha256: str | None = None) -> StunetPipeline:
    """Read the folder of a `StunetPipeline` into float32 weights on the CPU, in evaluation mode, nothing to train.

    `weights_sha256` is what `stored_stunet` said of the folder earlier: these weights, or none.
    Raises NuwaError, one line naming the file, for a folder that is something else, damaged or does not fit together.
    """
    return read_pipeline(StunetPipeline, Path(folder), weights_sha256)


def stored_stunet(folder: str | Path) -> StoredPipeline:
    """Sizes and fingerprint of the folder of a `StunetPipeline`, without loading its weights. NuwaError as above."""
    return stored_as(StunetPipeline, Path(folder))


def stunet_fingerprint(folder: str | Path) -> str:
    """SHA-256 over weights and configurations of the folder of a `StunetPipeline`."""
    return weights_fingerprint(folder, StunetPipeline.__name__)


def _check_classes(vae: Any, stunet: Any, ssr: Any, text_encoder: Any) -> None:
    """Raise NuwaError for networks of other kinds."""
    needed = [("stunet", stunet, SpaceTimeUNet), ("text_encoder", text_encoder, PromptEncoder)]
    if vae is not None:
        needed.append(("vae", vae, TemporalVAE))
    if ssr is not None:
        needed.append(("ssr", ssr, SuperResolutionUNet))
    check_classes(needed)
    if isinstance(stunet, SuperResolutionUNet):
        raise NuwaError("stunet is a SuperResolutionUNet; it makes clips larger and belongs in ssr")


def _check_fit(
    vae: TemporalVAE | None, networks: Mapping[str, SpaceTimeUNet | None], text_encoder: PromptEncoder
) -> None:
    """Raise NuwaError for networks of different widths."""
    made = PIXEL_CHANNELS if vae is None else vae.config.latent_channels
    source = "there is no vae, so that videos have" if vae is None else "vae makes latents of"
    for name, network in networks.items():
        if network is None:
            continue
        if network.in_channels != made:
            raise NuwaError(
                f"{name} takes videos of {network.in_channels} channels, but {source} {made}; "
                f"use a vae and a {name} that were trained together"
            )
        if network.cross_attention_dim != text_encoder.width:
            raise NuwaError(
                f"{name} takes prompts of width {network.cross_attention_dim}, but text_encoder makes "
                f"{text_encoder.width}; use the text encoder that the {name} was trained with"
            )


def _check_enlarging(scale: object, length: object, noise: object) -> None:
    """Raise NuwaError for a super-resolution that enlarges nothing, windows without frames, and noise beyond noise."""
    if not is_whole(scale, 2):
        raise NuwaError(f"ssr_scale is {scale!r}; it must be a whole number of times, at least 2")
    if not is_whole(length):
        raise NuwaError(f"ssr_length is {length!r}; it must be a whole number of frames, at least 1")
    if not is_share(noise):
        raise NuwaError(f"ssr_noise is {noise!r}; it must be a number from 0 to 1")
