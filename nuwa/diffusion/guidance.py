"""Classifier-free guidance: the prompt may be dropped, mask and condition always stay."""

import torch

from nuwa.diffusion.objective import Denoiser


def frame_scales(first: float, last: float, num_frames: int) -> torch.Tensor:
    """Guidance scale of every frame of a window, (t,), linear from `first` to `last` (Stable Video Diffusion)."""
    return torch.linspace(first, last, num_frames)


def guided(denoiser: Denoiser, scale: float | torch.Tensor, null_prompt: torch.Tensor) -> Denoiser:
    """A denoiser of the same call that predicts null + scale·(prompted − null); both halves run as one batch.

    Only prompts are dropped: mask, condition, stride and clip numbers are the same in both halves.

    scale: 1 = no guidance, and only one half runs; or (t,), one per frame
    null_prompt: (n d), tokens of the empty prompt
    """

    def predict(
        sample: torch.Tensor,
        timestep: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        condition: torch.Tensor | None = None,
        mask: torch.Tensor | None = None,
        stride: torch.Tensor | None = None,
        added_time_ids: torch.Tensor | None = None,
    ) -> torch.Tensor:
        if not isinstance(scale, torch.Tensor) and scale == 1.0:
            return denoiser(sample, timestep, encoder_hidden_states, condition, mask, stride, added_time_ids)
        null = null_prompt.to(encoder_hidden_states).expand_as(encoder_hidden_states)
        steps = torch.as_tensor(timestep, device=sample.device).expand(len(sample))
        both = denoiser(
            torch.cat([sample, sample]),
            torch.cat([steps, steps]),
            torch.cat([null, encoder_hidden_states]),
            _twice(condition),
            _twice(mask),
            _twice(stride),
            _twice(added_time_ids),
        )
        without, prompted = both.chunk(2)
        return without + _per_frame(scale, both) * (prompted - without)

    return predict


def _per_frame(scale: float | torch.Tensor, like: torch.Tensor) -> float | torch.Tensor:
    """One scale per frame, (t,), shaped (t 1 1) to multiply (b c t h w)."""
    return scale.to(like)[:, None, None] if isinstance(scale, torch.Tensor) else scale


def _twice(tensor: torch.Tensor | None) -> torch.Tensor | None:
    """A batch and its copy behind it."""
    return None if tensor is None else torch.cat([tensor, tensor])
