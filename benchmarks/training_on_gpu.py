"""Use of a GPU by training steps of the base preset, about 310 million weights: fp32, bf16, and bf16 compiled."""

import time
from dataclasses import dataclass

import torch
from torch import nn

from benchmarks.results import table
from nuwa.diffusion.objective import denoising_loss
from nuwa.hierarchy import NuwaError
from nuwa.models.mtd import MaskTemporalUNet
from nuwa.train.components import LATENT_CHANNELS, PRESETS, image_unet, new_scheduler
from nuwa.train.utilisation import StepFlops, peak_flop_s

FRAMES, LATENT_PX, TOKENS, TOKEN_WIDTH = 16, 32, 77, 768
"""A window at 256 px with Stable Diffusion's prompts."""


@dataclass(frozen=True)
class Way:
    """How the steps run."""

    name: str
    autocast: bool
    compiled: bool


WAYS = (
    Way("fp32", autocast=False, compiled=False),
    Way("bf16", autocast=True, compiled=False),
    Way("bf16, compiled", autocast=True, compiled=True),
)


class Steps:
    """Training steps of one network on random windows, first and last frame given."""

    def __init__(self, batch: int, way: Way) -> None:
        torch.manual_seed(0)
        self.way, device = way, torch.device("cuda")
        self.network = MaskTemporalUNet.from_unet(image_unet(PRESETS["base"], LATENT_PX, TOKEN_WIDTH)).to(device)
        if way.compiled:
            self.network.compile()
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=1e-5, fused=True)
        self.z0 = torch.randn(batch, LATENT_CHANNELS, FRAMES, LATENT_PX, LATENT_PX, device=device)
        self.prompts = torch.randn(batch, FRAMES, TOKENS, TOKEN_WIDTH, device=device)
        self.mask = torch.zeros_like(self.z0[:, :1])
        self.mask[:, :, [0, -1]] = 1
        self.stride = torch.full((batch,), 15.0, device=device)
        self.alphas_cumprod = new_scheduler("v_prediction").alphas_cumprod.to(device)

    def step(self) -> None:
        """Noise, forward, loss, backward, clipping, update."""
        eps = torch.randn_like(self.z0)
        steps = torch.randint(len(self.alphas_cumprod), (len(self.z0),), device=self.z0.device)
        known = (self.z0 * self.mask, self.mask, self.stride)
        with torch.autocast("cuda", torch.bfloat16, enabled=self.way.autocast):
            per_window = denoising_loss(
                self.network, self.z0, eps, steps, self.prompts, self.alphas_cumprod, "v_prediction", *known
            )
            loss = per_window.mean()
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def seconds(self, count: int) -> float:
        """Mean of `count` steps."""
        torch.cuda.synchronize()
        began = time.perf_counter()
        for _ in range(count):
            self.step()
        torch.cuda.synchronize()
        return (time.perf_counter() - began) / count


def gpu_lines(quick: bool) -> list[str]:
    """The table of all ways; each gain is over the way before."""
    if not torch.cuda.is_available():
        raise NuwaError("device cuda: this machine offers no CUDA device; use --device cpu")
    batch, count = (2, 3) if quick else (8, 20)
    peak, flops, before, rows = peak_flop_s(torch.device("cuda")), 0, 0.0, list[list[str]]()
    parameters = 0
    for way in WAYS:
        steps = Steps(batch, way)
        parameters = sum(weight.numel() for weight in steps.network.parameters())
        if not flops:
            with StepFlops() as counter:
                steps.step()
            flops = counter.total
        steps.seconds(3)  # compiles, and chooses kernels
        took = steps.seconds(count)
        share = "—" if peak is None else f"{flops / took / peak:.3f}"
        gain = f"{before / took:.2f}×" if before else "—"
        rows.append([way.name, f"{took:.3f}", f"{batch / took:.1f}", f"{flops / took / 1e12:.1f}", share, gain])
        before = took
        del steps
        torch.cuda.empty_cache()
    head = ["", "seconds", "windows/s", "TFLOP/s", "MFU", "gain"]
    shape = f"{batch} × {FRAMES} × {LATENT_PX}×{LATENT_PX} latents"
    return [
        f"{torch.cuda.get_device_name()}: preset base, {parameters / 1e6:.0f} M parameters, {shape}, "
        f"{flops / 1e12:.2f} TFLOP a step. MFU is over the dense bf16 peak of the data sheet, for fp32 too.",
        "",
        *table(head, rows),
    ]
