"""Noise, targets and the ancestral step, against closed forms and diffusers' own schedulers."""

import math

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler

from nuwa.diffusion.objective import (
    add_noise,
    clean_and_noise,
    denoising_loss,
    min_snr_weights,
    posterior_step,
    target,
)
from nuwa.hierarchy import NuwaError
from nuwa.train.components import new_scheduler

BETAS = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
ABAR = (1 - BETAS).cumprod(0)
DATA_VARIANCE = 0.25


def draw(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    z0, eps = torch.randn(2, 6, 4, 3, 2, 2, generator=generator, dtype=torch.float64)
    return z0, eps, torch.tensor([0, 1, 250, 500, 900, 999])


def test_iterated_noising_equals_the_closed_form() -> None:
    """q(z_t | z_{t−1}) applied 1000 times has the mean and variance of one jump (DDPM Eq. 2 and 4)."""
    mean, variance = 1.0, 0.0
    for step, beta in enumerate(BETAS.tolist()):
        mean, variance = math.sqrt(1 - beta) * mean, (1 - beta) * variance + beta
        jump = torch.tensor([step])
        one, zero = torch.ones(1, 1).double(), torch.zeros(1, 1).double()
        assert add_noise(one, zero, jump, ABAR).item() == pytest.approx(mean, abs=1e-12)
        assert add_noise(zero, one, jump, ABAR).item() ** 2 == pytest.approx(variance, abs=1e-12)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_prediction_comes_back_as_clean_and_noise(kind: str) -> None:
    z0, eps, step = draw()
    prediction = target(kind, z0, eps, step, ABAR)
    clean, noise = clean_and_noise(prediction, add_noise(z0, eps, step, ABAR), step, ABAR, kind)
    # at the last step ᾱ = 4e-5: dividing by its root costs two digits of float64
    assert (clean - z0).abs().max() < 1e-10
    assert (noise - eps).abs().max() < 1e-12


def test_noise_and_v_are_those_of_diffusers_schedulers() -> None:
    z0, eps, step = draw()
    scheduler = DDPMScheduler(beta_start=1e-4, beta_end=0.02)
    abar = scheduler.alphas_cumprod
    assert torch.allclose(add_noise(z0, eps, step, abar), scheduler.add_noise(z0, eps, step), atol=1e-6)
    velocity = scheduler.get_velocity(z0, eps, step)
    assert torch.allclose(target("v_prediction", z0, eps, step, abar), velocity, atol=1e-6)


def test_angular_ddim_update_equals_the_clean_and_noise_form() -> None:
    """z_s = cos(φs−φt) z + sin(φs−φt) v, and diffusers' DDIM step from v is the same."""
    z0, eps, _ = draw()
    now, then = torch.full((6,), 800), torch.full((6,), 600)
    zt, v = add_noise(z0, eps, now, ABAR), target("v_prediction", z0, eps, now, ABAR)
    angle = torch.atan2((1 - ABAR).sqrt(), ABAR.sqrt())
    turn = angle[600] - angle[800]
    turned = torch.cos(turn) * zt + torch.sin(turn) * v
    clean, noise = clean_and_noise(v, zt, now, ABAR, "v_prediction")
    assert (turned - add_noise(clean, noise, then, ABAR)).abs().max() < 1e-12
    scheduler = DDIMScheduler(
        trained_betas=BETAS.numpy(), clip_sample=False, prediction_type="v_prediction", timestep_spacing="leading"
    )
    scheduler.alphas_cumprod = ABAR
    scheduler.set_timesteps(5)  # 800 → 600
    assert (scheduler.step(v, 800, zt).prev_sample - turned).abs().max() < 1e-12


@pytest.mark.parametrize("num_steps", [5, 20])
def test_sampling_begins_in_pure_noise_and_ends_at_the_clean_video(num_steps: int) -> None:
    """The scheduler of new pipelines: zero terminal signal, trailing steps; the exact v brings z_0 back."""
    scheduler = new_scheduler("v_prediction")
    scheduler.set_timesteps(num_steps)
    assert scheduler.alphas_cumprod[-1] == 0
    assert (scheduler.timesteps[0], len(scheduler.timesteps)) == (999, num_steps)
    z0, zt, _ = draw()
    for step in scheduler.timesteps:
        alpha, sigma = scheduler.alphas_cumprod[step].sqrt(), (1 - scheduler.alphas_cumprod[step]).sqrt()
        zt = scheduler.step(alpha * (zt - alpha * z0) / sigma - sigma * z0, step, zt).prev_sample
    assert (zt - z0).abs().max() < 1e-5
    assert new_scheduler("epsilon").alphas_cumprod[-1] > 0


def sampled_variance(noise_power: float) -> float:
    """Variance of ancestral samples with the exact denoiser of N(0, 0.25); the noise coefficient is variance^power.

    Every step is linear, z ← k z + c eps, and `posterior_step` itself is asked for k and c.
    """
    variance = 1.0
    one, zero = torch.ones(1).double(), torch.zeros(1).double()
    for step in reversed(range(1000)):
        abar = ABAR[step]
        share = (1 - abar).sqrt() / (abar * DATA_VARIANCE + 1 - abar)  # E[eps | z_t] = share · z_t
        keep = posterior_step(one, share * one, step, ABAR, zero).item()
        coefficient = posterior_step(zero, zero, step, ABAR, one).item()
        variance = keep**2 * variance + (coefficient**2) ** (2 * noise_power)
    return variance


def test_eq16_square_root_reproduces_the_variance_of_the_data() -> None:
    assert sampled_variance(0.5) == pytest.approx(0.246, abs=5e-4)


def test_eq16_as_printed_collapses() -> None:
    assert sampled_variance(1.0) == pytest.approx(0.0009, abs=5e-5)


def test_eq16_by_sampling() -> None:
    generator = torch.Generator().manual_seed(0)
    zt = torch.randn(4_000, generator=generator, dtype=torch.float64)
    for step in reversed(range(1000)):
        abar = ABAR[step]
        eps_hat = (1 - abar).sqrt() / (abar * DATA_VARIANCE + 1 - abar) * zt
        eps = torch.randn(zt.shape, generator=generator, dtype=torch.float64)
        zt = posterior_step(zt, eps_hat, step, ABAR, eps)
    assert zt.var().item() == pytest.approx(0.246, abs=0.02)


def test_diffusers_sampler_uses_the_square_root_too() -> None:
    """The samplers of generation are diffusers'; their ancestral one must be `posterior_step`."""
    z0, eps, _ = draw()
    scheduler = DDPMScheduler(beta_start=1e-4, beta_end=0.02, clip_sample=False)
    scheduler.alphas_cumprod = ABAR
    for step in (1, 250, 999):
        zt = scheduler.add_noise(z0, eps, torch.full((6,), step))
        out = scheduler.step(eps, step, zt, generator=torch.Generator().manual_seed(5)).prev_sample
        fresh = torch.randn(zt.shape, generator=torch.Generator().manual_seed(5), dtype=zt.dtype)
        expected = posterior_step(zt, eps, step, ABAR, fresh)
        assert (out - expected).abs().max() < 1e-12


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_loss_is_zero_for_the_exact_denoiser_and_one_number_per_window(kind: str) -> None:
    z0 = draw()[0][:2].float().reshape(2, 4, 3, 2, 2)
    abar = ABAR.float()

    def exact(sample: torch.Tensor, timestep: torch.Tensor, *_: object) -> torch.Tensor:
        alpha, sigma = (part.reshape(-1, 1, 1, 1, 1) for part in (abar[timestep].sqrt(), (1 - abar[timestep]).sqrt()))
        return target(kind, z0, (sample - alpha * z0) / sigma, timestep, abar)

    prompts = torch.zeros(2, 3, 5)
    loss = denoising_loss(exact, z0, torch.randn_like(z0), torch.tensor([3, 700]), prompts, abar, kind)
    assert loss.shape == (2,)
    assert loss.max() < 1e-6


def test_loss_averages_each_window_on_its_own() -> None:
    """A denoiser that answers 0 has the mean square of the noise, Eq. 5, as its loss."""
    z0, eps = torch.randn(2, 2, 4, 3, 2, 2)

    def silent(sample: torch.Tensor, *_: object) -> torch.Tensor:
        return torch.zeros_like(sample)

    loss = denoising_loss(silent, z0, eps, torch.tensor([3, 700]), torch.zeros(2, 3, 5), ABAR)
    assert torch.allclose(loss, eps.square().mean(dim=(1, 2, 3, 4)))


def test_unknown_prediction_type_is_refused() -> None:
    z0, eps, step = draw()
    with pytest.raises(NuwaError, match="'sample'"):
        target("sample", z0, eps, step, ABAR)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("gamma", [0.5, 5.0, 1e9])
def test_min_snr_weighs_every_prediction_as_the_clean_latents_it_stands_for(kind: str, gamma: float) -> None:
    """weight · |error of the prediction|² = min(SNR, γ) · |error of z_0|² (Hang et al. 2023, Sec. 3.4)."""
    z0, eps, step = draw()
    prediction = target(kind, z0, eps, step, ABAR) + 0.1 * torch.randn_like(z0)
    clean, _ = clean_and_noise(prediction, add_noise(z0, eps, step, ABAR), step, ABAR, kind)
    snr = (ABAR / (1 - ABAR))[step]
    wanted = snr.clamp(max=gamma) * (clean - z0).square().flatten(1).mean(dim=1)
    error = (prediction - target(kind, z0, eps, step, ABAR)).square().flatten(1).mean(dim=1)
    assert torch.allclose(min_snr_weights(ABAR, step, gamma, kind).double() * error, wanted, rtol=1e-6)


def test_min_snr_weights_in_numbers() -> None:
    """SNR 9, 1 and 0 at γ = 5."""
    abar, steps = torch.tensor([0.9, 0.5, 0.0]), torch.arange(3)
    assert min_snr_weights(abar, steps, 5.0, "epsilon").tolist() == pytest.approx([5 / 9, 1.0, 1.0])
    assert min_snr_weights(abar, steps, 5.0, "v_prediction").tolist() == pytest.approx([0.5, 0.5, 0.0])
    with pytest.raises(NuwaError, match="'sample'"):
        min_snr_weights(abar, steps, 5.0, "sample")


def test_the_error_is_summed_in_fp32_whatever_the_network_computes_in() -> None:
    """Errors of 1 + 2^-10: bf16, which knows 1 and 1 + 2^-7, would have their mean square at 1."""
    z0 = torch.zeros(1, 1, 1, 64, 64, dtype=torch.bfloat16)
    eps = z0 - 2.0**-10

    def one(sample: torch.Tensor, *_: object) -> torch.Tensor:
        return torch.ones_like(sample, dtype=torch.bfloat16)

    loss = denoising_loss(one, z0, eps, torch.tensor([3]), torch.zeros(1, 1, 5), ABAR.float())
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx((1 + 2.0**-10) ** 2, rel=1e-5)
