"""One training step of an inflated U-Net in a process of its own: CPU-seconds and peak memory, as a line of JSON.

python -m benchmarks.stunet_step SHAPE LEVELS FRAMES SIZE WIDTH STEPS
"""

import json
import resource
import sys
from pathlib import Path
from typing import Literal

import torch
from diffusers import UNet2DConditionModel
from torch import nn
from torch.nn import functional

from benchmarks.measured import cpu_s
from nuwa.models.stunet import SpaceTimeUNet

Shape = Literal["pixels", "latents"]
TOKENS, TOKEN_WIDTH = 8, 64


def image_unet(shape: Shape, width: int, size: int) -> UNet2DConditionModel:
    """An image U-Net of four levels, 1, 2, 4, 4 times `width` channels wide, random weights.

    shape: `latents` is Stable Diffusion's, with attention at the three finer levels; `pixels` has none at the finest,
        as networks of pixels, like that of the paper, must: attention over 128×128 of them would cost more than the
        rest
    """
    torch.manual_seed(0)
    finest = "CrossAttn" if shape == "latents" else ""
    return UNet2DConditionModel(
        sample_size=size,
        in_channels=CHANNELS[shape],
        out_channels=CHANNELS[shape],
        block_out_channels=(width, 2 * width, 4 * width, 4 * width),
        down_block_types=(f"{finest}DownBlock2D", *["CrossAttnDownBlock2D"] * 2, "DownBlock2D"),
        up_block_types=("UpBlock2D", *["CrossAttnUpBlock2D"] * 2, f"{finest}UpBlock2D"),
        layers_per_block=2,
        cross_attention_dim=TOKEN_WIDTH,
        attention_head_dim=8,
        norm_num_groups=8,
    )


CHANNELS: dict[Shape, int] = {"pixels": 3, "latents": 4}


class Trainer:
    """A network of `levels` temporal resamplings (None = all) with the clip that it is trained on."""

    def __init__(self, shape: Shape, levels: int | None, num_frames: int, size: int, width: int) -> None:
        self.model = SpaceTimeUNet.from_unet(image_unet(shape, width, size), temporal_levels=levels).train()
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=1e-4)
        self.video = torch.randn(1, CHANNELS[shape], num_frames, size, size)
        self.prompts = torch.randn(1, TOKENS, TOKEN_WIDTH)
        self.mask = functional.pad(torch.ones(1, 1, 1, size, size), (0, 0, 0, 0, 0, num_frames - 1))

    def step(self) -> None:
        """Forward, backward, update."""
        step = torch.tensor([500])
        prediction = self.model(self.video, step, self.prompts, self.video * self.mask, self.mask)
        nn.functional.mse_loss(prediction, self.video).backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


def resident_bytes() -> int:
    """Memory of this process now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def measure(shape: Shape, levels: int | None, num_frames: int, size: int, width: int, steps: int) -> dict[str, float]:
    """Mean CPU-seconds of a step after a first one, and how far a step's peak lies above the network at rest."""
    torch.set_num_threads(1)
    trainer = Trainer(shape, levels, num_frames, size, width)
    before = resident_bytes()
    trainer.step()
    started = cpu_s()
    for _ in range(steps):
        trainer.step()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    trained = sum(one.numel() for one in trainer.model.parameters() if one.requires_grad)
    frozen = sum(one.numel() for one in trainer.model.spatial_parameters())
    return {
        "cpu_s": (cpu_s() - started) / steps,
        "peak_bytes": peak - before,
        "trained": trained,
        "frozen": frozen,
    }


if __name__ == "__main__":
    shape, levels, *numbers = sys.argv[1:]
    chosen: Shape = "pixels" if shape == "pixels" else "latents"
    print(json.dumps(measure(chosen, None if levels == "all" else int(levels), *map(int, numbers))))
