"""Where a worker trains, in which type its networks compute, and what to do where its memory is too small."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from nuwa.train.config import AUTOENCODER_STAGES, TrainConfig, TrainError


def device_of(rank: int) -> torch.device:
    """The GPU of a worker, or the CPU where there is none."""
    if torch.cuda.is_available():
        return torch.device("cuda", rank % torch.cuda.device_count())
    return torch.device("cpu")


def autocast_type(config: TrainConfig, device: torch.device) -> torch.dtype | None:
    """What `precision` means here, None without autocast.

    On a CPU with AMX the autoencoders gain by bf16 and the denoisers lose by it.
    """
    if config.precision != "auto":
        faster = config.precision == "bf16"
    elif device.type == "cuda":
        faster = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        faster = config.stage in AUTOENCODER_STAGES and torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if faster else None


@contextmanager
def memory_explained() -> Iterator[None]:
    """Too little memory on a GPU is for the user to change: tried again, it would be too little again."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise TrainError(
            f"the GPU's memory is too small ({str(error).splitlines()[0]}); give a smaller --batch, more --accumulate "
            "or --gradient-checkpointing"
        ) from error
