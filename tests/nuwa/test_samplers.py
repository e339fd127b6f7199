"""Every sampler against closed forms, for both predictions and for betas rescaled to end in pure noise.

Data are N(0.7, 0.25) at every element. Their exact denoiser is affine, so the walk is too, and the probability flow has
a closed form: x_0 = μ + s (x_T − α_T μ) / √(α_T² s² + σ_T²).
"""

import itertools
import math

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    PNDMScheduler,
    UniPCMultistepScheduler,
)
from diffusers.schedulers.scheduling_utils import SchedulerMixin

from nuwa.generate.samplers import Sampler, check_steps, denoise
from nuwa.hierarchy import NuwaError

CPU = torch.device("cpu")
MEAN, VARIANCE = 0.7, 0.25
NAMES = ("ddpm", "ddim", "dpm++", "unipc")
DETERMINISTIC = ("ddim", "dpm++", "unipc")
SOUND = [("epsilon", False), ("v_prediction", False), ("v_prediction", True)]


def trained_with(kind: str, rescaled: bool) -> DDIMScheduler:
    """The scheduler of a pipeline: Stable Diffusion's betas."""
    return DDIMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        clip_sample=False,
        prediction_type=kind,
        rescale_betas_zero_snr=rescaled,
        timestep_spacing="trailing",
    )


class Gaussian:
    """The exact denoiser of N(MEAN, VARIANCE); keeps the steps it was told."""

    def __init__(self, trained: SchedulerMixin) -> None:
        self.kind, self.abar = trained.config.prediction_type, trained.alphas_cumprod.double()
        self.told: list[int] = []

    def __call__(self, zt: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
        self.told.append(int(steps[0]))
        abar = self.abar[self.told[-1]]
        alpha, sigma = abar.sqrt(), (1 - abar).sqrt()
        share = (zt.double() - alpha * MEAN) / (abar * VARIANCE + sigma**2)
        eps, z0 = sigma * share, MEAN + alpha * VARIANCE * share
        return (eps if self.kind == "epsilon" else alpha * eps - sigma * z0).float()


def walk(denoiser: Gaussian, sampler: Sampler, noise: torch.Tensor) -> torch.Tensor:
    """Samples from noise (n,), nothing given."""
    noise = noise.reshape(1, 1, 1, 1, -1)
    nothing = torch.zeros_like(noise)
    return denoise(denoiser, sampler, noise, nothing, nothing, [torch.Generator().manual_seed(1)]).flatten()


def flow(trained: SchedulerMixin, noise: torch.Tensor) -> torch.Tensor:
    """Where the probability flow takes pure noise (n,) at the last step of the schedule."""
    abar = trained.alphas_cumprod[-1].double()
    spread = math.sqrt(VARIANCE) / (abar * VARIANCE + 1 - abar).sqrt()
    return MEAN + spread * (noise - abar.sqrt() * MEAN)


@pytest.mark.parametrize(("kind", "rescaled"), SOUND)
@pytest.mark.parametrize(("name", "tolerance"), [("ddim", 2.5e-3), ("dpm++", 1e-3), ("unipc", 1e-3)])
def test_exact_gaussian_denoiser_gives_the_data_back(name: str, tolerance: float, kind: str, rescaled: bool) -> None:
    """Mean and variance too: noise 0 goes to the mean, noise ±1 to the mean ± the standard deviation."""
    trained, noise = trained_with(kind, rescaled), torch.tensor([-1.0, 0.0, 1.0])
    found = walk(Gaussian(trained), Sampler(trained, name, 1000, CPU), noise)
    torch.testing.assert_close(found, flow(trained, noise), atol=tolerance, rtol=0)
    if rescaled:
        below, mean, above = found
        assert mean == pytest.approx(MEAN, abs=1e-3)
        assert ((above - below) / 2) ** 2 == pytest.approx(VARIANCE, abs=1.2 * tolerance)


@pytest.mark.parametrize(("kind", "rescaled"), SOUND)
@pytest.mark.parametrize("steps", [61, 1000])
def test_ancestral_sampling_has_the_variance_of_its_closed_form(kind: str, rescaled: bool, steps: int) -> None:
    """Eq. 16 with the square root, at the levels of a walk: 0.246 of 0.25 at all 1000 steps."""
    trained = trained_with(kind, rescaled)
    denoiser = Gaussian(trained)
    noise = torch.randn(40_000, generator=torch.Generator().manual_seed(0))
    found = walk(denoiser, Sampler(trained, "ddpm", steps, CPU), noise)
    levels = [*trained.alphas_cumprod.double()[denoiser.told], torch.tensor(1.0, dtype=torch.float64)]
    variance = 1.0
    for now, then in itertools.pairwise(levels):
        beta, share = 1 - now / then, now.sqrt() * VARIANCE / (now * VARIANCE + 1 - now)
        keep = (1 - beta).sqrt() * (1 - then) / (1 - now) + then.sqrt() * beta / (1 - now) * share
        variance = keep**2 * variance + (1 - then) / (1 - now) * beta
    assert found.mean().item() == pytest.approx(MEAN, abs=6e-3)
    assert found.var().item() == pytest.approx(float(variance), rel=0.025)
    if steps == 1000:
        assert float(variance) == pytest.approx(VARIANCE, abs=6e-3)


@pytest.mark.parametrize("steps", [1, 3, 7, 20, 30, 61, 600, 1000])
def test_ddim_walks_exactly_the_levels_the_denoiser_is_told(steps: int) -> None:
    """The product of the steps' factors, at any count (diffusers by itself: see the next test)."""
    trained, noise = trained_with("v_prediction", True), torch.tensor([0.0, 1.0])
    denoiser = Gaussian(trained)
    low, high = walk(denoiser, Sampler(trained, "ddim", steps, CPU), noise).double()
    levels = [*trained.alphas_cumprod.double()[denoiser.told], torch.tensor(1.0, dtype=torch.float64)]
    factor = 1.0
    for now, then in itertools.pairwise(levels):
        total = now * VARIANCE + 1 - now
        factor *= then.sqrt() * now.sqrt() * VARIANCE / total + ((1 - then) * (1 - now)).sqrt() / total
    assert high - low == pytest.approx(float(factor), abs=1e-5)


def test_diffusers_ddim_drifts_where_steps_do_not_divide_the_schedule() -> None:
    """Why the levels are walked here: 600 steps of 1000 give mean 0.49 and variance 0.43 instead of 0.70 and 0.25."""
    trained = trained_with("v_prediction", True)
    scheduler, denoiser, zt = DDIMScheduler.from_config(trained.config), Gaussian(trained), torch.tensor([0.0, 1.0])
    scheduler.set_timesteps(600)
    for step in scheduler.timesteps:
        zt = scheduler.step(denoiser(zt, step.reshape(1)), step, zt).prev_sample
    assert zt[0].item() == pytest.approx(0.494, abs=2e-3)
    assert (zt[1] - zt[0]).item() ** 2 == pytest.approx(0.434, abs=2e-3)
    low, high = walk(Gaussian(trained), Sampler(trained, "ddim", 600, CPU), torch.tensor([0.0, 1.0]))
    assert low.item() == pytest.approx(MEAN, abs=1e-3)
    assert (high - low).item() ** 2 == pytest.approx(VARIANCE, abs=5e-3)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("steps", [1, 2, 3, 7, 61, 121, 300, 600, 999, 1000])
def test_trailing_steps_are_exact_for_every_count(name: str, steps: int) -> None:
    """⌊1000 (n−i)/n⌉ − 1: the first is the last of training, none is negative (61 and 121 are with diffusers)."""
    sampler = Sampler(trained_with("v_prediction", True), name, steps, CPU)
    exact = torch.tensor([1000 * (steps - i) / steps for i in range(steps)], dtype=torch.float64) - 1
    assert sampler.timesteps[0] == 999
    assert len(sampler.timesteps) == steps
    assert (sampler.timesteps - exact).abs().max() <= 0.5 + 1e-9


@pytest.mark.parametrize("name", NAMES)
def test_few_steps_end_at_the_clean_latents_of_a_denoiser_that_knows_them(name: str) -> None:
    """One step or two: the last step of every sampler is to zero noise."""
    trained = trained_with("v_prediction", True)
    z0 = torch.randn(1, 1, 1, 1, 50, generator=torch.Generator().manual_seed(3))
    noise = torch.randn(1, 1, 1, 1, 50, generator=torch.Generator().manual_seed(4))

    def oracle(zt: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
        abar = trained.alphas_cumprod[steps[0]].double()
        alpha, sigma = abar.sqrt(), (1 - abar).sqrt()
        return (alpha * (zt - alpha * z0) / sigma - sigma * z0).float()

    for steps in (1, 2, 5):
        sampler = Sampler(trained, name, steps, CPU)
        found = denoise(oracle, sampler, noise, torch.zeros_like(z0), torch.zeros_like(z0), [torch.Generator()])
        torch.testing.assert_close(found, z0, atol=1e-3, rtol=0)  # sigma = 4096 at the first step costs three digits


def given_case() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Noise, given latents and mask of two windows of five frames; the first and a middle frame are given."""
    generator = torch.Generator().manual_seed(0)
    noise, given = torch.randn(2, 2, 3, 5, 2, 2, generator=generator)
    mask = torch.zeros(2, 1, 5, 2, 2)
    mask[:, :, [0, 3]] = 1
    return noise, given * mask, mask


def schedulers() -> list[tuple[SchedulerMixin, str]]:
    trained = trained_with("v_prediction", True)
    euler = EulerDiscreteScheduler.from_config(trained.config, timestep_spacing="trailing")
    return [*((trained, name) for name in ("trained", *NAMES)), (euler, "trained")]


@pytest.mark.parametrize(("trained", "name"), schedulers(), ids=["trained", *NAMES, "euler"])
def test_given_frames_are_at_the_level_of_every_step_and_bitwise_at_the_end(trained: SchedulerMixin, name: str) -> None:
    """What the denoiser sees of them is alpha·given + sigma·noise of the step it is told, sigma-parametrised or not."""
    noise, given, mask = given_case()
    abar = trained_with("v_prediction", True).alphas_cumprod.double()
    told: list[int] = []

    def predict(zt: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
        told.append(int(steps[0]))
        alpha, sigma = abar[told[-1]].sqrt(), (1 - abar[told[-1]]).sqrt()
        # diffusers' sigma-parametrised schedulers stop at sigma = 4096 (alpha = 2.4e-4) where this one has alpha = 0
        torch.testing.assert_close(zt * mask, ((alpha * given + sigma * noise) * mask).float(), atol=2e-3, rtol=0)
        return zt.tanh()

    sampler = Sampler(trained, name, 7, CPU)
    found = denoise(predict, sampler, noise, given, mask, [torch.Generator().manual_seed(n) for n in range(2)])
    assert told == [999, 856, 713, 570, 428, 285, 142]
    assert torch.equal(found * mask, given)
    assert found.isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_what_is_put_back_reaches_other_frames_through_the_denoiser_only(name: str) -> None:
    """A denoiser that works element by element makes the same other frames, bitwise, with and without given ones.

    So the histories of multistep samplers hold nothing that the given frames should not have told.
    """
    trained = trained_with("v_prediction", True)
    noise, given, mask = given_case()
    found = [
        denoise(
            lambda zt, steps: (zt + steps[0] / 1000).tanh(),
            Sampler(trained, name, 9, CPU),
            noise,
            given * used,
            mask * used,
            [torch.Generator().manual_seed(n) for n in range(2)],
        )
        for used in (0, 1)
    ]
    assert torch.equal(found[0] * (1 - mask), found[1] * (1 - mask))
    assert not torch.equal(found[0], found[1])


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_frames_between_given_ones_have_their_exact_conditional_distribution(name: str) -> None:
    """Frames of a Gaussian random walk in time, first and last given: the ideal conditional denoiser of frames 1–3.

    Sampled from the basis of noise, the affine walk tells its mean and covariance exactly.
    """
    trained = trained_with("v_prediction", True)
    covariance = 0.9 ** (torch.arange(5.0)[:, None] - torch.arange(5.0)).abs().double()
    ends, inner = [0, 4], [1, 2, 3]
    gain = covariance[inner][:, ends] @ covariance[ends][:, ends].inverse()
    spread = covariance[inner][:, inner] - gain @ covariance[ends][:, inner]
    mean = gain @ torch.tensor([1.5, -0.5], dtype=torch.float64)

    def predict(zt: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
        frames = zt.double().squeeze()  # rows frames
        abar = trained.alphas_cumprod[steps[0]].double()
        alpha, sigma = abar.sqrt(), (1 - abar).sqrt()
        z0 = frames.clone()
        total = abar * spread + sigma**2 * torch.eye(3)
        z0[:, inner] = mean + (frames[:, inner] - alpha * mean) @ (alpha * spread @ total.inverse()).T
        z0[:, ends] = torch.tensor([1.5, -0.5], dtype=torch.float64)
        return (alpha * (frames - alpha * z0) / sigma - sigma * z0).float().reshape(zt.shape)

    noise = torch.cat([torch.zeros(1, 5), torch.eye(5)]).reshape(6, 1, 5, 1, 1)
    mask = torch.tensor([1.0, 0, 0, 0, 1]).reshape(1, 1, 5, 1, 1).expand(6, 1, 5, 1, 1)
    given = torch.tensor([1.5, 0, 0, 0, -0.5]).reshape(1, 1, 5, 1, 1) * mask
    sampler = Sampler(trained, name, 1000, CPU)
    found = denoise(predict, sampler, noise, given, mask, [torch.Generator()] * 6).double()
    origin, columns = found[0, 0, inner, 0, 0], (found[1:] - found[:1])[:, 0, inner, 0, 0]
    torch.testing.assert_close(origin, mean, atol=2e-3, rtol=0)
    torch.testing.assert_close(columns.T @ columns, spread, atol=4e-3, rtol=0)


@pytest.mark.parametrize("name", ["trained", *NAMES])
def test_noise_prediction_on_rescaled_betas_is_refused(name: str) -> None:
    with pytest.raises(NuwaError, match="train with v_prediction, or without the rescaling"):
        Sampler(trained_with("epsilon", True), name, 20, CPU)


@pytest.mark.parametrize(
    ("trained", "steps", "message"),
    [
        (DDPMScheduler(prediction_type="sample"), 20, "'sample' cannot be sampled; train with epsilon or v_prediction"),
        (PNDMScheduler(), 20, "PNDMScheduler is not one of .*; choose a sampler: ddim"),
        (DPMSolverMultistepScheduler(), 1000, "cannot make 1000 different steps of 1000; give fewer steps"),
        (UniPCMultistepScheduler(), 1001, "steps is 1001; this model's noise schedule has 1000"),
        (
            DDIMScheduler(prediction_type="v_prediction", rescale_betas_zero_snr=True),
            20,
            "begins at step 950, but this schedule is pure noise at step 999 only; choose a sampler",
        ),
    ],
)
def test_what_cannot_work_is_told_in_one_line(trained: SchedulerMixin, steps: int, message: str) -> None:
    with pytest.raises(NuwaError, match=message) as error:
        Sampler(trained, "trained", steps, CPU)
    assert "\n" not in str(error.value)


def test_unknown_samplers_and_too_many_steps_are_refused() -> None:
    with pytest.raises(NuwaError, match="'plms' is unknown; use trained"):
        Sampler(PNDMScheduler(), "plms", 20, CPU)  # type: ignore[arg-type]
    with pytest.raises(NuwaError, match="give at most that"):
        check_steps(PNDMScheduler(), 1001)


@pytest.mark.parametrize("name", NAMES)
def test_any_scheduler_of_a_pipeline_lends_its_noise_schedule(name: str) -> None:
    """A pipeline with a scheduler that is not walked here is sampled by the others, with its betas."""
    trained = PNDMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    noise = torch.tensor([0.0, 1.0])
    found = walk(Gaussian(trained), Sampler(trained, name, 20, CPU), noise)
    expected = walk(Gaussian(trained), Sampler(trained_with("epsilon", False), name, 20, CPU), noise)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("steps", [7, 20])
def test_ddim_as_sampler_is_bitwise_the_trained_one(steps: int) -> None:
    trained, noise = trained_with("v_prediction", True), torch.linspace(-2, 2, 9)
    found = [walk(Gaussian(trained), Sampler(trained, name, steps, CPU), noise) for name in ("trained", "ddim")]
    assert torch.equal(*found)
