"""ssr: an inflated U-Net learns to make small clips large."""

import copy
from collections.abc import Sequence

import torch
from torch.nn import functional

from nuwa.data.runs import Run
from nuwa.data.windows import WindowSample
from nuwa.generate.stunet_pipeline import StunetPipeline
from nuwa.models.ssr import SuperResolutionUNet, augmented, enlarged
from nuwa.nn.frames import fold, unfold
from nuwa.train.clip_components import rebuilt_clip
from nuwa.train.clip_latents import ClipLatents, clip_numbers
from nuwa.train.clip_samples import enlarged_window
from nuwa.train.config import TrainConfig, TrainError
from nuwa.train.draws import generator
from nuwa.train.samples import Shown, check_walk
from nuwa.train.stages import Diffusion, Losses, video_of, windows_of


class SsrStage:
    """ssr: short windows of runs, shrunk by `ssr_scale` and enlarged again, and the windows themselves.

    Target = E(window); condition = E(the window shrunk and enlarged), noised by up to `ssr_noise` and told by how much
    (Ho et al. 2021, arXiv 2106.15282); without an autoencoder both are pixels (Lumiere Sec. 3.2).

    Paper: an image super-resolution network inflated, whose weights stay; here: all weights train, because the image
    weights are those of a text-to-image network, which has never seen a small image.
    """

    adversary = None

    def __init__(self, config: TrainConfig, pipe: StunetPipeline, runs: Sequence[Run], device: torch.device) -> None:
        self.config, self.pipe, self.device = config, pipe, device
        self._check(runs[0])
        self.data = windows_of(runs, config, (1,))
        self.pattern: tuple[int, ...] = (0,)
        self.module = _network(config, pipe).to(device).requires_grad_(True)
        self.latents = ClipLatents(pipe, config, device)
        self.diffusion = Diffusion(config, pipe, device)
        check_walk(pipe.scheduler, config)

    def losses(self, samples: Sequence[WindowSample], draws: range) -> Losses:
        """Denoising loss, and that of the windows in each tenth of the noise."""
        z0 = torch.stack([self._target(sample) for sample in samples])  # b c t h w
        small = torch.stack([self._condition(sample) for sample in samples])
        seed, most = self.config.seed, self.config.ssr_noise
        levels = [most * float(torch.rand((), generator=generator(seed, "condition level", draw))) for draw in draws]
        eps = [torch.randn(z0.shape[1:], generator=generator(seed, "condition noise", draw)) for draw in draws]
        condition = augmented(small, torch.tensor(levels), torch.stack(eps)).to(self.device)
        stride = torch.tensor([sample.stride for sample in samples], device=self.device)
        numbers = clip_numbers(self.config, samples, levels, draws).to(self.device)
        tokens = self.diffusion.tokens(samples, draws)
        z0 = z0.to(self.device)
        per_window = self.diffusion.loss(self.module, z0, tokens, draws, condition, None, stride, numbers)
        return self.diffusion.losses(per_window, draws)

    def _target(self, sample: WindowSample) -> torch.Tensor:
        """Scaled latents of a window (c t h w)."""
        return self.latents.recall((sample.index, 0), lambda: video_of([sample], self.device))

    def _condition(self, sample: WindowSample) -> torch.Tensor:
        """Those of the same window without what a small video lacks."""
        scale = self.config.ssr_scale
        return self.latents.recall((sample.index, 1), lambda: coarse(video_of([sample], self.device), scale))

    def _check(self, run: Run) -> None:
        """Raise TrainError for runs that do not shrink to whole pixels."""
        scale = self.config.ssr_scale
        if run.width % scale or run.height % scale:
            raise TrainError(
                f"ssr_scale is {scale}, but runs of {run.width}x{run.height} px do not shrink {scale} times to whole "
                "pixels; give a divisor of both sides"
            )

    @torch.no_grad()
    def show(self) -> Shown:
        """The first window beside what is made of its small version."""
        sample = self.data[0]
        tokens = self.diffusion.prompts.tokens(["", *sample.prompts]).to(self.device)
        condition = self._condition(sample)[None].to(self.device)
        pipe, video = self.pipeline(), video_of([sample], self.device)
        return enlarged_window(pipe, self.latents, video, condition, tokens, sample.fps, self.config)

    def pipeline(self) -> StunetPipeline:
        """The pipeline with this network: these tensors, which training changes."""
        config = self.config
        return rebuilt_clip(
            self.pipe,
            ssr=self.module,
            ssr_scale=config.ssr_scale,
            ssr_length=config.window_length,
            ssr_noise=config.ssr_noise,
        )


def coarse(video: torch.Tensor, scale: int) -> torch.Tensor:
    """A video (b 3 t H W) shrunk `scale` times, by means over squares of pixels, and bilinearly enlarged again."""
    small = unfold(functional.avg_pool2d(fold(video), scale), video.shape[2])
    return enlarged(small, video.shape[3], video.shape[4])


def _network(config: TrainConfig, pipe: StunetPipeline) -> SuperResolutionUNet:
    """A copy of the network that the pipeline has, or a new one with the image weights of its space-time U-Net."""
    if pipe.ssr is None:
        torch.manual_seed(config.seed)
        return SuperResolutionUNet.from_unet(pipe.stunet.image_unet())
    if pipe.config.ssr_scale != config.ssr_scale:
        raise TrainError(
            f"ssr_scale is {config.ssr_scale}, but the ssr of --init makes sides {pipe.config.ssr_scale} times as long;"
            f" give --ssr-scale {pipe.config.ssr_scale}, or an --init without ssr"
        )
    return copy.deepcopy(pipe.ssr)
