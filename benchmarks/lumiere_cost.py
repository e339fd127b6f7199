"""One denoiser evaluation in a process of its own: CPU-seconds and peak memory per frame, as a line of JSON.

python -m benchmarks.lumiere_cost KIND SHAPE FRAMES SIZE WIDTH REPEATS
"""

import json
import resource
import sys
from typing import Literal

import torch

from benchmarks.measured import cpu_s
from benchmarks.stunet_step import CHANNELS, TOKEN_WIDTH, TOKENS, Shape, image_unet, resident_bytes
from nuwa.diffusion.objective import Denoiser
from nuwa.models.mtd import MaskTemporalUNet
from nuwa.models.stunet import SpaceTimeUNet

Kind = Literal["stunet", "mtd"]


@torch.no_grad()
def measure(kind: Kind, shape: Shape, num_frames: int, size: int, width: int, repeats: int) -> dict[str, float]:
    """Mean CPU-seconds of a forward pass after a first one, and its peak above the network at rest, per frame."""
    torch.set_num_threads(1)
    unet = image_unet(shape, width, size)
    denoiser: Denoiser = (SpaceTimeUNet if kind == "stunet" else MaskTemporalUNet).from_unet(unet).eval()
    del unet
    video = torch.randn(1, CHANNELS[shape], num_frames, size, size)
    prompts, step = torch.randn(1, num_frames, TOKENS, TOKEN_WIDTH), torch.tensor([500])
    mask = torch.zeros(1, 1, num_frames, size, size)
    mask[:, :, 0] = 1.0
    before = resident_bytes()
    denoiser(video, step, prompts, video * mask, mask)
    started = cpu_s()
    for _ in range(repeats):
        denoiser(video, step, prompts, video * mask, mask)
    spent_s = (cpu_s() - started) / repeats
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"cpu_s_per_frame": spent_s / num_frames, "peak_bytes": peak - before, "frames": num_frames}


if __name__ == "__main__":
    kind, shape, *numbers = sys.argv[1:]
    chosen: Kind = "stunet" if kind == "stunet" else "mtd"
    print(json.dumps(measure(chosen, "pixels" if shape == "pixels" else "latents", *map(int, numbers))))
