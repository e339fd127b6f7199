"""Random numbers of training: every draw has its own generator, made from (seed, purpose, number)."""

import zlib

import numpy as np
import torch

GOLDEN = 0.6180339887498949


def generator(seed: int, purpose: str, number: int) -> torch.Generator:
    """CPU generator of one draw: the same for any batch size, worker or order."""
    words = np.random.SeedSequence([seed, zlib.crc32(purpose.encode()), number]).generate_state(2)
    return torch.Generator().manual_seed(int(words[0]) << 31 ^ int(words[1]))


def noise(seed: int, draws: range, shape: tuple[int, ...]) -> torch.Tensor:
    """Standard normal noise: (b, *shape), each row from the generator of its own draw."""
    return torch.stack([torch.randn(shape, generator=generator(seed, "noise", draw)) for draw in draws])


def timesteps(seed: int, draws: range, num_train_timesteps: int) -> torch.Tensor:
    """Diffusion steps: (b,) int64 in [0, num_train_timesteps).

    Paper: uniform draws; here: a golden-ratio sequence with a random start, also uniform, because any few
    neighbouring draws then cover the range evenly and the loss of a small batch varies less.
    """
    start = torch.rand((), generator=generator(seed, "timestep", 0), dtype=torch.float64)
    places = (start + torch.tensor([float(draw) for draw in draws], dtype=torch.float64) * GOLDEN) % 1.0
    return (places * num_train_timesteps).long()


def happens(seed: int, purpose: str, draws: range, probability: float) -> list[bool]:
    """One independent yes or no per draw."""
    return [bool(torch.rand((), generator=generator(seed, purpose, draw)) < probability) for draw in draws]
