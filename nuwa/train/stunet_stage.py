"""stunet: the space-time U-Net learns whole clips, every frame at once."""

import copy
from collections.abc import Sequence

import torch

from nuwa.data.runs import Run
from nuwa.data.windows import WindowSample
from nuwa.generate.masks import in_latents
from nuwa.generate.stunet_pipeline import StunetPipeline
from nuwa.models.stunet import SpaceTimeUNet
from nuwa.train.clip_components import rebuilt_clip
from nuwa.train.clip_latents import ClipLatents, clip_numbers
from nuwa.train.clip_samples import clip
from nuwa.train.config import TrainConfig
from nuwa.train.known_regions import known_mask, masked, task_shares
from nuwa.train.samples import Shown, check_walk
from nuwa.train.stages import Diffusion, Losses, video_of, windows_of


class StunetStage:
    """stunet: clips of consecutive frames, told what is given of them (Lumiere Sec. 3.1, 4.2).

    Image weights stay; only what inflation added trains. Paper: 80 frames at 16 fps; here: 80, or as many as `length`
    says, at the rate of the runs. Target = E(clip); condition = E(clip with unknown pixels zeroed), mask = 1 where all
    pixels of a latent are given; without an autoencoder both are of pixels, as in the paper.
    """

    adversary = None

    def __init__(self, config: TrainConfig, pipe: StunetPipeline, runs: Sequence[Run], device: torch.device) -> None:
        self.config, self.pipe, self.device = config, pipe, device
        self.data = windows_of(runs, config, (1,))
        self.pattern: tuple[int, ...] = (0,)
        self.module: SpaceTimeUNet = copy.deepcopy(pipe.stunet).to(device).requires_grad_(False)
        for weight in self.module.temporal_parameters():
            weight.requires_grad_(True)
        self.latents = ClipLatents(pipe, config, device)
        self.shares = task_shares(config)
        self.diffusion = Diffusion(config, pipe, device)
        check_walk(pipe.scheduler, config)

    def losses(self, samples: Sequence[WindowSample], draws: range) -> Losses:
        """Denoising loss, and that of the clips in each tenth of the noise."""
        z0 = torch.stack([self._target(sample) for sample in samples]).to(self.device)  # b c t h w
        known = [
            self._known(sample, draw, z0[row]) for row, (sample, draw) in enumerate(zip(samples, draws, strict=True))
        ]
        condition, mask = (torch.stack(part).to(z0) for part in zip(*known, strict=True))  # b c t h w, b 1 t h w
        stride = torch.tensor([sample.stride for sample in samples], device=self.device)
        numbers = clip_numbers(self.config, samples, [0.0] * len(samples), draws).to(self.device)
        tokens = self.diffusion.tokens(samples, draws)
        per_clip = self.diffusion.loss(self.module, z0, tokens, draws, condition, mask, stride, numbers)
        return self.diffusion.losses(per_clip, draws)

    def _target(self, sample: WindowSample) -> torch.Tensor:
        """Scaled latents of a clip (c t h w)."""
        return self.latents.recall((sample.index,), lambda: video_of([sample], self.device))

    def _known(self, sample: WindowSample, draw: int, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Masked clip (c t h w) and mask (1 t h w); zeros where nothing is given: it is then not read."""
        num_frames, height, width = sample.frames.shape[:3]
        pixels = known_mask(self.shares, num_frames, height, width, self.config.seed, draw)
        if not pixels.any():
            return torch.zeros_like(like), torch.zeros_like(like[:1])
        known = masked(video_of([sample], self.device)[0], pixels.to(self.device))
        if self.pipe.vae is not None:
            known = in_latents(known, self.latents.encode, self.latents.factor)
        return known.video, known.mask

    def show(self) -> Shown:
        """A clip of one prompt."""
        encoder = self.pipe.text_encoder
        place = encoder.device
        try:
            return clip(self.pipeline().to(self.device), self.data.runs, self.config)
        finally:
            encoder.to(place)  # shared with training, which encodes prompts where it was

    def pipeline(self) -> StunetPipeline:
        """The pipeline with this network: these tensors, which training changes."""
        return rebuilt_clip(self.pipe, stunet=self.module, window_length=self.config.window_length)
