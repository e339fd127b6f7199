"""torch.compile of the networks that train, in place: their names, and so checkpoints, stay as they are."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from diffusers import AutoencoderKL
from torch import nn
from torch._dynamo.exc import BackendCompilerFailed, TorchDynamoException

from nuwa.models.vae import TemporalVAE
from nuwa.train.config import TrainError


def compile_parts(module: nn.Module) -> None:
    """Compile what a training step calls of `module`: of autoencoders both halves, of others the whole."""
    for part in (module.encoder, module.decoder) if isinstance(module, AutoencoderKL | TemporalVAE) else (module,):
        part.compile()


def check_compiler(device: torch.device) -> None:
    """Raise TrainError where nothing can be compiled for `device`, for want of a C++ compiler or of Triton."""
    try:
        torch.compile(torch.cos)(torch.ones(2, device=device))
    except (TorchDynamoException, RuntimeError, OSError) as error:
        inner = error.inner_exception if isinstance(error, BackendCompilerFailed) else error
        cause = next((line.strip() for line in str(inner).splitlines() if line.strip()), type(inner).__name__)
        raise TrainError(
            f"compile: torch.compile cannot make code for {device.type} here ({cause}); install a C++ compiler "
            "(g++), or leave --compile away"
        ) from error


@contextmanager
def as_written() -> Iterator[None]:
    """Networks run uncompiled within: shapes that come up once are not worth compiling for."""
    with torch.compiler.set_stance("force_eager"):
        yield
