"""The encoder of a pipeline folder as `pipelines.encode` uses it: the same operations as training would do."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from nuwa.data.latents import Half
from nuwa.data.prompt_tokens import Tokens
from nuwa.data.runs import Frames, Run
from nuwa.data.whole_files import LatentsError
from nuwa.generate.pipeline import NuwaXLPipeline, pick_device
from nuwa.models.vae import LatentGaussian
from nuwa.train.components import starting_pipeline
from nuwa.train.config import TrainConfig
from nuwa.train.fingerprints import autoencoder_hash, prompt_encoder_hash
from nuwa.train.memory import PromptMemory
from nuwa.train.stages import pixels_of


class PipelineEncoder:
    """The T-KLVAE and the text encoder of a pipeline, or for single frames its image autoencoder.

    frames_at_once: frames that pass the autoencoder together, at least one window
    """

    def __init__(self, pipe: NuwaXLPipeline, *, single_frames: bool, device: torch.device, frames_at_once: int) -> None:
        self.device, self.frames_at_once = device, frames_at_once
        vae = pipe.vae.image_vae() if single_frames else pipe.vae
        self.vae_hash, self.prompt_hash = autoencoder_hash(vae), prompt_encoder_hash(pipe)
        self.vae = vae.to(device).eval().requires_grad_(False)
        self.single_frames, self.scale = single_frames, float(pipe.vae.config.scaling_factor)
        pipe.text_encoder.to(device)
        self.prompts = PromptMemory(pipe)

    def windows_at_once(self, length: int) -> int:
        """How many windows of `length` frames pass together."""
        return max(1, self.frames_at_once // length)

    @torch.no_grad()
    def encode(self, frames: Frames, mask: str) -> tuple[Half, Half]:
        """Mean and log-variance (b c t h w) of scaled latents; frames (b t h w c), those where `mask` is 0 zeroed."""
        known = torch.tensor([digit == "1" for digit in mask], device=self.device)
        video = pixels_of(frames, self.device) * known[:, None, None]  # b c t h w
        gaussian = self._gaussian(video)
        mean = gaussian.mean.float() * self.scale
        logvar = gaussian.logvar.float() + 2 * math.log(self.scale)
        return mean.half().cpu().numpy(), logvar.half().cpu().numpy()

    def _gaussian(self, video: torch.Tensor) -> LatentGaussian:
        if not self.single_frames:
            return self.vae.encode(video)
        image = self.vae.encode(video[:, :, 0]).latent_dist  # b c h w
        return LatentGaussian(image.mean[:, :, None], image.logvar[:, :, None])

    def tokens(self, prompts: Sequence[str]) -> Tokens:
        """Tokens of prompts (p n d)."""
        return self.prompts.tokens(prompts).float().numpy()


def pipeline_of(model: Path, stage: str, run: Run) -> NuwaXLPipeline:
    """What a training of `stage` starts from with `--init` of `model`, for runs like `run`; NuwaError as it does."""
    return starting_pipeline(TrainConfig(stage=stage, dataset=Path(), output=Path(), init=model), run)


@dataclass(frozen=True)
class LoadEncoder:
    """Loads the encoder of a folder, in whatever process; it must be the one of the hashes, as planned."""

    model: Path
    stage: str
    run: Run
    device: str
    frames_at_once: int
    hashes: tuple[str, str]

    def __call__(self) -> PipelineEncoder:
        """The encoder. Raises LatentsError when the folder holds another one by now, and NuwaError as loading does."""
        device = torch.device(pick_device(self.device))
        pipe = pipeline_of(self.model, self.stage, self.run)
        encoder = PipelineEncoder(
            pipe, single_frames=self.stage == "image", device=device, frames_at_once=self.frames_at_once
        )
        if (encoder.vae_hash, encoder.prompt_hash) != self.hashes:
            raise LatentsError(
                f"pipeline {self.model} has changed since the start, or is another one on another node; "
                "give the same command again when it stays"
            )
        return encoder
