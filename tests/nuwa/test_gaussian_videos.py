"""Exact-Gaussian videos: the closed form is what generation does, what is known on paper, and what was promised."""

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import gaussian_videos
from benchmarks.exact_gaussian import (
    ExactDenoiser,
    Process,
    by_autoregression,
    by_diffusion_over_diffusion,
    conditional,
    distance_of_blocks,
    distance_per_frame,
    first_order,
    ideal_pipeline,
    squared_exponential,
)
from benchmarks.gaussian_videos import EXPECTED, MeasureGaussianVideos, distance, main, processes, verdict_lines
from nuwa.generate.autoregressive import autoregressive, autoregressive_windows
from nuwa.generate.executors import LocalExecutor
from nuwa.generate.long_video import frame_plan, generate_latents
from nuwa.generate.samplers import SamplerName
from nuwa.generate.windows import Sampling, WindowSampler, noise_generator
from nuwa.hierarchy import NuwaError, Window
from nuwa.train.components import new_scheduler

LENGTH, FRAMES, SIDE, SEED, STEPS = 5, 14, 3, 3, 10
SMOOTH = squared_exponential(6.0)


def noise_of(windows: list[Window]) -> torch.Tensor:
    """The noise that generation draws for these windows: (p, pixels)."""
    shape = (LENGTH, SIDE * SIDE)
    return torch.cat(
        [torch.randn(shape, generator=noise_generator(SEED, "window", w.level, w.index)).double() for w in windows]
    )


def sampler(batch: int, name: SamplerName = "ddim") -> WindowSampler:
    sampling = Sampling(steps=STEPS, guidance=1.0, sampler=name, seed=SEED, batch=batch, condition="latents")
    return WindowSampler(ideal_pipeline(SMOOTH, LENGTH, SIDE), sampling)


def test_generation_does_exactly_what_the_closed_form_says() -> None:
    """The whole of generation, its own noise and float32, against A times that noise in float64."""
    plan = frame_plan([""] * FRAMES, LENGTH)
    latents = generate_latents(plan, LocalExecutor(sampler(batch=3))).reshape(FRAMES, -1)
    made = torch.from_numpy(by_diffusion_over_diffusion(SMOOTH, FRAMES, LENGTH, STEPS))
    expected = made @ noise_of([window for level in plan.levels for window in level])
    torch.testing.assert_close(latents.double(), expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize("overlap", [0, 1, 3])
def test_autoregression_does_exactly_what_the_closed_form_says(overlap: int) -> None:
    parts = autoregressive(sampler(batch=1), [""] * FRAMES, LENGTH, overlap)
    latents = torch.cat([part.latents for part in parts], dim=1).reshape(FRAMES, -1)
    made = torch.from_numpy(by_autoregression(SMOOTH, FRAMES, LENGTH, overlap, STEPS))
    expected = made @ noise_of(autoregressive_windows(FRAMES, LENGTH, overlap))
    torch.testing.assert_close(latents.double(), expected, atol=1e-3, rtol=0)


def test_exact_denoiser_is_the_conditional_mean_of_the_joint_law() -> None:
    """E[z0 | zt, given] from the covariance of all that is seen, at stride 3 with two frames given."""
    scheduler, given, stride, step = new_scheduler("v_prediction"), [0, 3], 3, 400
    unknown = [1, 2, 4]
    covariance = SMOOTH.covariance(range(0, stride * LENGTH, stride))
    abar = scheduler.alphas_cumprod[step].double()
    seen = torch.block_diag(abar * covariance[unknown][:, unknown], covariance[given][:, given])
    seen[:3, :3] += (1 - abar) * torch.eye(3, dtype=torch.float64)
    seen[:3, 3:] = abar.sqrt() * covariance[unknown][:, given]
    seen[3:, :3] = seen[:3, 3:].T
    cross = torch.cat([abar.sqrt() * covariance[unknown][:, unknown], covariance[unknown][:, given]], dim=1)
    zt = torch.randn(LENGTH, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    frames = torch.randn(LENGTH, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    z0 = frames.clone()
    z0[unknown] = cross @ torch.linalg.solve(seen, torch.cat([zt[unknown], frames[given]]))
    mask = torch.zeros(1, 1, LENGTH, 1, 1)
    mask[:, :, given] = 1.0
    condition = frames.reshape(1, 1, LENGTH, 1, 1) * mask
    call = (zt.reshape(1, 1, LENGTH, 1, 1), torch.tensor([step]), torch.zeros(1, 1, 1), condition, mask)
    v = ExactDenoiser(SMOOTH, scheduler)(*call, torch.tensor([stride])).flatten()
    torch.testing.assert_close(v, (abar.sqrt() * zt - z0) / (1 - abar).sqrt(), atol=1e-10, rtol=0)


def test_conditional_law_of_a_markov_chain_reads_the_nearest_given_frames_only() -> None:
    law = conditional(first_order(4.0).covariance(range(6)), [True, False, True, False, False, True])
    assert law.unknown == [1, 3, 4]
    assert law.gain[0, 2].abs() < 1e-12
    assert law.gain[1:, 0].abs().max() < 1e-12
    assert law.gain[1:, 1:].abs().min() > 0.1


@pytest.mark.parametrize("overlap", [1, 3])
def test_nothing_is_lost_on_a_markov_chain(overlap: int) -> None:
    """The next frames depend on one frame only, so no way of putting windows together can err."""
    chain = first_order(7.0)
    assert distance_per_frame(chain, by_autoregression(chain, FRAMES, LENGTH, overlap, None)) < 1e-10
    assert distance_per_frame(chain, by_diffusion_over_diffusion(chain, FRAMES, LENGTH, None)) < 1e-10
    assert distance_per_frame(chain, by_autoregression(chain, FRAMES, LENGTH, 0, None)) > 0.01


def test_one_window_with_a_perfect_sampler_is_the_truth() -> None:
    assert distance_per_frame(SMOOTH, by_diffusion_over_diffusion(SMOOTH, LENGTH, LENGTH, None)) < 1e-10


def test_autoregression_forgets_by_powers_of_the_covariance_over_a_window() -> None:
    made = by_autoregression(SMOOTH, 17, LENGTH, 1, None)
    covariance = made @ made.T
    over_a_window = float(SMOOTH.covariance([0, 4])[0, 1])
    np.testing.assert_allclose(covariance[0, ::4], over_a_window ** np.arange(5), atol=1e-12)
    np.testing.assert_allclose(np.diag(covariance), 1.0, atol=1e-12)


def test_keyframes_have_the_true_law_and_carry_all_that_windows_know_of_each_other() -> None:
    made = by_diffusion_over_diffusion(SMOOTH, 17, LENGTH, None)
    covariance, truth = made @ made.T, SMOOTH.covariance(range(17))
    np.testing.assert_allclose(covariance[::4, ::4], truth[::4, ::4], atol=1e-12)
    np.testing.assert_allclose(covariance[:5, :5], truth[:5, :5], atol=1e-9)
    law = conditional(truth[:5, :5], [True, False, False, False, True])
    between = law.gain @ truth[[0, 4]][:, [8, 12]] @ law.gain.T  # frames 1–3 and 9–11
    np.testing.assert_allclose(covariance[1:4, 9:12], between, atol=1e-9)
    assert np.abs(covariance - truth.numpy()).max() > 1e-4, "something is lost"


def test_sampler_of_generation_tends_to_the_perfect_one() -> None:
    limit = by_diffusion_over_diffusion(SMOOTH, FRAMES, LENGTH, None)
    coarse, fine = (
        np.abs(by_diffusion_over_diffusion(SMOOTH, FRAMES, LENGTH, steps) - limit).max() for steps in (20, 200)
    )
    assert fine < 0.25 * coarse
    assert fine < 0.02


def test_distance_of_laws_that_are_known() -> None:
    white = Process("white", lambda distance: (distance == 0).double())
    assert distance_per_frame(white, 2.0 * np.eye(6)) == pytest.approx(1.0)  # (2 − 1)² in every frame
    assert distance_per_frame(white, np.eye(6)[:, ::-1]) == pytest.approx(0.0, abs=1e-12)
    blocks = distance_of_blocks(white, np.diag([1.0, 1.0, 3.0, 3.0, 9.0]), 2)
    np.testing.assert_allclose(blocks, [0.0, 4.0], atol=1e-12)


def test_figures_that_were_promised() -> None:
    """L = 16, N = 226: W2² per frame about 0.009 against about 0.21."""
    assert distance(processes()[0], 226, None, None) == pytest.approx(EXPECTED[None], abs=5e-4)
    assert distance(processes()[0], 226, 1, None) == pytest.approx(EXPECTED[1], abs=5e-3)


def test_verdict_counts_what_it_finds() -> None:
    found = [{None: 0.1, 0: 0.5, 1: 0.3}, {None: 0.0, 0: 0.5, 1: 1e-12}, {None: 0.2, 0: 0.5, 1: 0.1}]
    first, best, one = verdict_lines(found, 226)
    assert "**reproduced** against every overlap" in first
    assert "over 3 processes: nearer in 1, as near in 1, farther in 1" in best
    assert "nearer in 1, as near in 1, farther in 1" in one
    assert "**not reproduced**" in verdict_lines(found[::-1], 226)[0]


def test_section_has_tables_and_a_plot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gaussian_videos, "FRAMES", 46)
    results = tmp_path / "RESULTS.md"
    main(MeasureGaussianVideos(frames=(16, 46), overlaps=(0, 1), steps=2, results=results))
    text = results.read_text("utf-8")
    assert text.count("\n| diffusion over diffusion |") == 2
    assert "AR(1), ℓ = 20 | 0.0000 | 0.1578 | 0.0000 | diffusion over diffusion, autoregression, o = 1 |" in text
    assert "![" in text
    assert ElementTree.parse(tmp_path / "figures" / "gaussian-videos.svg").getroot().tag.endswith("svg")
    capsys.readouterr()
    main(MeasureGaussianVideos(frames=(16, 18, 46), overlaps=(1,), quick=True, steps=2, results=tmp_path / "no.md"))
    assert "| diffusion over diffusion |" in capsys.readouterr().out
    assert not (tmp_path / "no.md").exists()


@pytest.mark.parametrize("wrong", [{"frames": (15,)}, {"overlaps": (1, 16)}])
def test_sizes_that_cannot_be_are_refused(wrong: dict[str, tuple[int, ...]]) -> None:
    with pytest.raises(NuwaError, match="give "):
        MeasureGaussianVideos(**wrong)
