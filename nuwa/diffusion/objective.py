"""Training targets of diffusion: plain functions over a bare denoiser and draws that the caller made.

`alphas_cumprod` is ᾱ of the noise schedule, (num_steps,), as diffusers' schedulers hold it. z_t = √ᾱ z_0 + √(1−ᾱ) eps.
"""

from typing import Literal, Protocol

import torch

from nuwa.hierarchy import NuwaError

PredictionType = Literal["epsilon", "v_prediction"]


class Denoiser(Protocol):
    """Anything that is called like `nuwa.models.mtd.MaskTemporalUNet`."""

    def __call__(
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        condition: torch.Tensor | None = None,
        mask: torch.Tensor | None = None,
        stride: torch.Tensor | None = None,
        added_time_ids: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Predict noise or v, (b c t h w)."""


def signal_and_noise(
    alphas_cumprod: torch.Tensor, step: torch.Tensor, like: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """alpha = √ᾱ and sigma = √(1−ᾱ) at `step` (b,), shaped (b 1 … 1) to multiply `like` (b …)."""
    abar = alphas_cumprod.to(like.device)[step].to(like.dtype)
    abar = abar.reshape(-1, *[1] * (like.ndim - 1))
    return abar.sqrt(), (1.0 - abar).sqrt()


def add_noise(z0: torch.Tensor, eps: torch.Tensor, step: torch.Tensor, alphas_cumprod: torch.Tensor) -> torch.Tensor:
    """Forward process in one jump, z_t = alpha z_0 + sigma eps (DDPM Eq. 4).

    z0, eps: (b …); step: (b,) int64
    """
    alpha, sigma = signal_and_noise(alphas_cumprod, step, z0)
    return alpha * z0 + sigma * eps


def target(
    prediction_type: PredictionType,
    z0: torch.Tensor,
    eps: torch.Tensor,
    step: torch.Tensor,
    alphas_cumprod: torch.Tensor,
) -> torch.Tensor:
    """What the denoiser has to predict: eps (NUWA-XL Eq. 5) or v = alpha eps − sigma z_0 (Salimans and Ho, 2022)."""
    if prediction_type == "epsilon":
        return eps
    if prediction_type == "v_prediction":
        alpha, sigma = signal_and_noise(alphas_cumprod, step, z0)
        return alpha * eps - sigma * z0
    raise NuwaError(f"prediction_type {prediction_type!r} is unknown; use 'epsilon' or 'v_prediction'")


def clean_and_noise(
    prediction: torch.Tensor,
    zt: torch.Tensor,
    step: torch.Tensor,
    alphas_cumprod: torch.Tensor,
    prediction_type: PredictionType,
) -> tuple[torch.Tensor, torch.Tensor]:
    """z_0 and eps that a prediction stands for, each (b …); the inverse of `add_noise` and `target`."""
    alpha, sigma = signal_and_noise(alphas_cumprod, step, zt)
    if prediction_type == "epsilon":
        return (zt - sigma * prediction) / alpha, prediction
    if prediction_type == "v_prediction":
        return alpha * zt - sigma * prediction, alpha * prediction + sigma * zt
    raise NuwaError(f"prediction_type {prediction_type!r} is unknown; use 'epsilon' or 'v_prediction'")


def denoising_loss(
    denoiser: Denoiser,
    z0: torch.Tensor,
    eps: torch.Tensor,
    step: torch.Tensor,
    encoder_hidden_states: torch.Tensor,
    alphas_cumprod: torch.Tensor,
    prediction_type: PredictionType = "epsilon",
    condition: torch.Tensor | None = None,
    mask: torch.Tensor | None = None,
    stride: torch.Tensor | None = None,
    added_time_ids: torch.Tensor | None = None,
) -> torch.Tensor:
    """Mean squared error of the prediction, one number per window, (b,) (NUWA-XL Eq. 5).

    z0: (b c t h w), clean latents, scaled to unit variance
    eps, step: (b c t h w) and (b,), drawn by the caller, who knows which window has which generator
    the other tensors as in the denoiser's call
    """
    zt = add_noise(z0, eps, step, alphas_cumprod)
    prediction = denoiser(zt, step, encoder_hidden_states, condition, mask, stride, added_time_ids)
    error = prediction.float() - target(prediction_type, z0, eps, step, alphas_cumprod).float()
    return error.square().flatten(1).mean(dim=1)


# Hang et al. 2023 (arXiv 2303.09556), Sec. 3.4: min(SNR, γ) for z_0, over SNR for eps, over SNR + 1 for v.
def min_snr_weights(
    alphas_cumprod: torch.Tensor, step: torch.Tensor, gamma: float, prediction_type: PredictionType
) -> torch.Tensor:
    """Weight (b,) of the squared error at `step` (b,): as if that of z_0 counted min(SNR, gamma), SNR = ᾱ / (1 − ᾱ).

    An error of eps is √SNR times that of z_0, one of v √(SNR + 1) times. Where nothing but noise is left (ᾱ = 0, the
    last step of a schedule with zero terminal signal), eps counts 1, its limit, and v nothing.
    """
    abar = alphas_cumprod.double()[step.to(alphas_cumprod.device)]
    snr = abar / (1.0 - abar)
    if prediction_type == "epsilon":
        return (gamma / snr).clamp(max=1.0).float()
    if prediction_type == "v_prediction":
        return (snr.clamp(max=gamma) / (snr + 1.0)).float()
    raise NuwaError(f"prediction_type {prediction_type!r} is unknown; use 'epsilon' or 'v_prediction'")


def posterior_step(
    zt: torch.Tensor, eps_hat: torch.Tensor, step: int, alphas_cumprod: torch.Tensor, eps: torch.Tensor
) -> torch.Tensor:
    """One ancestral step z_t → z_{t−1} with fresh noise `eps` (DDPM; NUWA-XL Eq. 16).

    Paper: Eq. 16 multiplies the noise by the posterior variance; here: by its square root, because the printed form
    draws far too little noise (data of variance 0.25 come out with 0.0009). Generation uses diffusers' schedulers;
    this function states the rule that they are tested against.
    """
    abar = alphas_cumprod[step]
    abar_next = alphas_cumprod[step - 1] if step > 0 else torch.ones_like(abar)
    beta = 1.0 - abar / abar_next
    mean = (zt - beta / (1.0 - abar).sqrt() * eps_hat) / (1.0 - beta).sqrt()
    variance = (1.0 - abar_next) / (1.0 - abar) * beta
    return mean + variance.sqrt() * eps
