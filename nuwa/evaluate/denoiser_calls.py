"""How often the denoiser has to run one call after another: arithmetic behind the speed of diffusion over diffusion.

The formulas are stated on their own, so that what the generators really do can be counted against them.
"""

from nuwa.hierarchy import plan


def autoregressive_calls(num_frames: int, length: int, overlap: int, steps: int) -> int:
    """S·(1 + ⌈(N − L)/(L − o)⌉): windows of L frames that share o, each after the one before, S sampler steps each."""
    return steps * (1 + max(0, -(-(num_frames - length) // (length - overlap))))


def hierarchical_calls(num_frames: int, length: int, steps: int, batch: int = 1, workers: int = 1) -> int:
    """S·Σ_k ⌈w_k/(K·B)⌉ for w_k windows at level k, K workers and B windows in a batch (NUWA-XL Sec. 3.3).

    What a worker waits for; the calls of all workers together are those of K = 1.
    """
    return steps * sum(-(-windows // (batch * workers)) for windows in windows_per_level(num_frames, length))


def windows_per_level(num_frames: int, length: int) -> list[int]:
    """w_k, global level first, of the cropped tree of the least depth."""
    return [len(level) for level in plan(num_frames, length)]


def most_speed_up(num_frames: int, length: int, overlap: int = 1) -> float:
    """Calls in a row of autoregression over those with unlimited workers, S·m: what no number of devices can pass."""
    return autoregressive_calls(num_frames, length, overlap, 1) / len(windows_per_level(num_frames, length))
