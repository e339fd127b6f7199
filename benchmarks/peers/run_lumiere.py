"""A static video through lumiere-pytorch's inflation of an image U-Net of ours: its relative difference, as JSON.

python -m benchmarks.peers.run_lumiere SIZE WIDTH, with the folder that benchmarks/peers.sh installs it into on
PYTHONPATH. Its modules are put where its own description puts them: convolution inflation after the residual blocks,
attention after those of the middle, resampling after each spatial one.
"""

import json
import sys
from importlib.metadata import version

import torch
from lumiere_pytorch import Lumiere  # type: ignore[import-not-found]
from torch import nn

from benchmarks.stunet_step import CHANNELS, TOKEN_WIDTH, TOKENS, image_unet

FRAMES = 16


class Prompted(nn.Module):
    """The image U-Net with one prompt, called with images and steps alone, as the peer calls it."""

    def __init__(self, unet: nn.Module, prompts: torch.Tensor) -> None:
        super().__init__()
        self.unet, self.prompts = unet, prompts

    def forward(self, images: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        prompts = self.prompts.expand(len(images), -1, -1)
        made: torch.Tensor = self.unet(images, time, encoder_hidden_states=prompts).sample
        return made


def by_position(
    module: nn.Module, args: tuple[torch.Tensor, ...], kwargs: dict[str, torch.Tensor]
) -> tuple[tuple[torch.Tensor, ...], dict[str, torch.Tensor]]:
    """The peer's hooks want the first argument of every module by position; diffusers names it here and there."""
    if args:
        return args, kwargs
    name = next(iter(kwargs))
    return (kwargs[name],), {other: value for other, value in kwargs.items() if other != name}


@torch.no_grad()
def measure(size: int, width: int) -> dict[str, float | str]:
    """Relative difference of the inflated network's frames from the image network's, for a video that stands still."""
    unet = image_unet("pixels", width, size).eval()
    frame, prompts = torch.randn(1, CHANNELS["pixels"], size, size), torch.randn(1, TOKENS, TOKEN_WIDTH)
    image = Prompted(unet, prompts)
    levels = range(len(unet.down_blocks) - 1)
    model = Lumiere(
        image,
        image_size=size,
        unet_time_kwarg="time",
        channels=CHANNELS["pixels"],
        conv_module_names=[f"unet.down_blocks.{level}.resnets.0" for level in levels],
        attn_module_names=["unet.mid_block.resnets.1"],
        downsample_module_names=[f"unet.down_blocks.{level}.downsamplers.0" for level in levels],
        upsample_module_names=[f"unet.up_blocks.{level}.upsamplers.0" for level in levels],
    ).eval()
    for module in model.model.modules():
        module.register_forward_pre_hook(by_position, prepend=True, with_kwargs=True)
    expected = image(frame, torch.tensor([500.0]))[:, :, None].expand(-1, -1, FRAMES, -1, -1)
    made = model(frame[:, :, None].expand(-1, -1, FRAMES, -1, -1).contiguous(), time=torch.tensor([500.0]))
    return {
        "relative": ((made - expected).norm() / expected.norm()).item(),
        "version": version("lumiere-pytorch"),
    }


if __name__ == "__main__":
    print(json.dumps(measure(*map(int, sys.argv[1:]))))
