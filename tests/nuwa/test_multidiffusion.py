"""MultiDiffusion (Lumiere Sec. 3.2): the least-squares join of windows, and what it does to borders, in float64."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from diffusers import DDIMScheduler

from nuwa.diffusion.guidance import guided
from nuwa.diffusion.objective import Denoiser
from nuwa.generate.multidiffusion import Cut, Tiling, Weights, cuts, multidiffusion, ramp
from nuwa.generate.samplers import Sampler
from nuwa.hierarchy import NuwaError
from nuwa.models.stunet import SpaceTimeUNet
from tests.nuwa.test_stunet import WIDTH, make_unet

Calls = list[dict[str, torch.Tensor | None]]


class Recorder:
    """A denoiser whose prediction mixes everything in a window, and the inputs of its calls."""

    def __init__(self) -> None:
        self.calls: Calls = []

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
        inputs = {"sample": sample, "timestep": timestep, "prompts": encoder_hidden_states, "condition": condition}
        self.calls.append(inputs | {"mask": mask, "stride": stride, "added_time_ids": added_time_ids})
        return sample.sin() + sample.mean(dim=(2, 3, 4), keepdim=True) * 7 + timestep[:, None, None, None, None] / 1000


def make_video(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("overlap", [0, 1, 2, 5])
@pytest.mark.parametrize("window", [6, 16])
def test_windows_cover_any_length_and_neighbours_share_the_overlap(window: int, overlap: int) -> None:
    for size in range(1, 70):
        places = cuts(size, window, overlap)
        covered = [0] * size
        for place in places:
            assert place.stop - place.start == min(window, size)
            for frame in range(size)[place]:
                covered[frame] += 1
        assert min(covered) >= 1
        shared = [left.stop - right.start for left, right in pairwise(places)]
        assert all(one == overlap for one in shared[:-1])
        assert all(one >= overlap for one in shared)
        assert places[-1].stop == size


def least_squares(
    windows: list[Cut], predictions: list[torch.Tensor], shape: torch.Size, weight: torch.Tensor
) -> torch.Tensor:
    """argmin_J Σ_i weight·(J|_i − Φ_i)² by `lstsq`, with one row per pixel of every window."""
    pixels = torch.arange(shape.numel()).reshape(shape)
    places = torch.cat([cut.of(pixels).flatten() for cut in windows])
    matrix = torch.zeros(len(places), shape.numel(), dtype=torch.float64)
    matrix[torch.arange(len(places)), places] = 1.0
    right = torch.cat([one.flatten() for one in predictions])
    roots = torch.cat([weight.expand(one.shape).flatten() for one in predictions]).sqrt()
    return torch.linalg.lstsq(matrix * roots[:, None], (right * roots)[:, None]).solution[:, 0].reshape(shape)


@pytest.mark.parametrize("weights", ["count", "ramp"])
@pytest.mark.parametrize(
    ("tiling", "shape"),
    [
        (Tiling(frames=4, frame_overlap=2, batch=3), (1, 2, 11, 3, 3)),
        (Tiling(frames=4, frame_overlap=3, batch=4), (1, 1, 9, 2, 4)),
        (Tiling(frames=3, frame_overlap=1, tile=4, tile_overlap=2, batch=5), (1, 1, 5, 7, 5)),
    ],
)
def test_the_join_is_the_least_squares_solution(tiling: Tiling, shape: tuple[int, ...], weights: Weights) -> None:
    tiling = replace(tiling, weights=weights)
    video, denoiser, prompts = make_video(*shape), Recorder(), make_video(1, 2, 3)
    joined = multidiffusion(denoiser, tiling)(video, torch.tensor([400]), prompts)
    windows = tiling.windows(*shape[2:])
    predictions = [Recorder()(cut.of(video), torch.tensor([400]), prompts) for cut in windows]
    assert len(windows) > 3
    weight = tiling.weight(*shape[2:]).double()
    assert torch.equal(weight, torch.ones_like(weight)) == (weights == "count")
    assert (joined - least_squares(windows, predictions, video.shape, weight)).abs().max() < 1e-12


def test_ramps_rise_and_fall_over_what_is_shared() -> None:
    assert (ramp(6, 2) - torch.tensor([1, 2, 3, 3, 2, 1]) / 3).abs().max() < 1e-6
    assert (ramp(3, 2) - torch.tensor([1, 2, 1]) / 3).abs().max() < 1e-6
    assert torch.equal(ramp(4, 0), torch.ones(4))


def test_a_video_of_one_window_is_the_denoiser_itself() -> None:
    video, prompts = make_video(2, 3, 5, 4, 4), make_video(2, 5, 2, 3)
    alone = Recorder()(video, torch.tensor([3, 9]), prompts)
    joined = multidiffusion(Recorder(), Tiling(frames=16, batch=1))(video, torch.tensor([3, 9]), prompts)
    assert torch.equal(joined, alone)


def test_windows_run_in_batches_of_their_own_inputs_whatever_the_length() -> None:
    denoiser, tiling = Recorder(), Tiling(frames=4, frame_overlap=2, tile=6, tile_overlap=2, batch=3)
    video, prompts = make_video(2, 3, 14, 8, 8), make_video(2, 14, 2, 5)
    mask = (make_video(2, 1, 14, 8, 8) > 0).double()
    steps, stride, numbers = torch.tensor([3, 9]), torch.tensor([1.0, 15.0]), make_video(2, 3)
    multidiffusion(denoiser, tiling)(video, steps, prompts, video + 1, mask, stride, numbers)
    seen = 0
    order = [(row, cut) for cut in tiling.windows(14, 8, 8) for row in range(2)]
    for call in denoiser.calls:
        sample = call["sample"]
        assert sample is not None
        assert sample.shape[0] <= 3
        assert sample.shape[1:] == (3, 4, 6, 6)
        for index in range(len(sample)):
            row, cut = order[seen]
            expected = {
                "sample": cut.of(video[row]), "condition": cut.of(video[row]) + 1, "mask": cut.of(mask[row]),
                "prompts": prompts[row, cut.frames], "timestep": steps[row], "stride": stride[row],
                "added_time_ids": numbers[row],
            }  # fmt: skip
            for name, value in expected.items():
                given = call[name]
                assert given is not None
                assert torch.equal(given[index], value), name
            seen += 1
    assert seen == len(order) == 2 * 6 * 4
    assert len(denoiser.calls) == 16


def test_the_size_of_a_batch_changes_nothing() -> None:
    video, prompts = make_video(2, 3, 9, 4, 4), make_video(2, 2, 3)
    results = [
        multidiffusion(Recorder(), Tiling(frames=4, batch=batch))(video, torch.tensor(5), prompts)
        for batch in (1, 3, 100)
    ]
    assert (results[0] - results[1]).abs().max() < 1e-12
    assert (results[0] - results[2]).abs().max() < 1e-12


@torch.no_grad()
def test_it_serves_a_real_network_and_guidance_around_it() -> None:
    model = SpaceTimeUNet.from_unet(make_unet().double()).eval()
    video, prompts, null = make_video(1, 4, 10, 8, 8), make_video(1, 3, WIDTH), make_video(3, WIDTH)
    tiling = Tiling(frames=8, frame_overlap=4, batch=2)
    outside = guided(multidiffusion(model, tiling), 3.0, null)(video, torch.tensor([5]), prompts)
    inside = multidiffusion(guided(model, 3.0, null), tiling)(video, torch.tensor([5]), prompts)
    assert (outside - inside).abs().max() < 1e-12
    # frames 0 and 1 lie in the first window only
    alone = guided(model, 3.0, null)(video[:, :, :8], torch.tensor([5]), prompts)
    assert (outside[:, :, :2] - alone[:, :, :2]).abs().max() < 1e-12


def test_half_precision_is_added_up_in_single() -> None:
    def ones(sample: torch.Tensor, *_: object) -> torch.Tensor:
        return torch.full_like(sample, 1.0 + 2**-7)

    video = torch.zeros(1, 1, 400, 1, 1, dtype=torch.bfloat16)
    joined = multidiffusion(ones, Tiling(frames=300, frame_overlap=299, batch=8))(video, torch.tensor([1]), video[0, 0])
    assert joined.dtype == torch.bfloat16
    assert torch.equal(joined, ones(video))


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"frames": 4, "frame_overlap": 4}, "4 frames cannot share 4"),
        ({"frames": 4, "frame_overlap": -1}, "from 0 to 3"),
        ({"tile": 8, "tile_overlap": 9}, "8 px cannot share 9"),
        ({"batch": 0}, "a batch of 0"),
    ],
)
def test_windows_that_do_not_advance_are_refused(options: dict[str, int], named: str) -> None:
    with pytest.raises(NuwaError, match=named):
        Tiling(**options)


NUM_FRAMES, WINDOW, PIXELS = 80, 16, 1024
NOISE_ON_CONDITION = 0.1


def exact_denoiser(abar: torch.Tensor, noise: float) -> Denoiser:
    """E[eps | zt, y] in a window of a Gaussian process over time whose low-resolution copy is y = z0 + noise.

    The best denoiser that sees no more than its window.
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
        assert condition is not None
        alpha2, eye = abar[int(timestep[0])], torch.eye(sample.shape[2], dtype=torch.float64)
        gain = torch.linalg.solve(covariance(len(eye)) + noise**2 * eye, covariance(len(eye))).T
        rest = covariance(len(eye)) - gain @ covariance(len(eye))  # of z0 given y
        mean = torch.einsum("ij,bcjhw->bcihw", gain, condition)
        step = alpha2.sqrt() * torch.linalg.solve(alpha2 * rest + (1 - alpha2) * eye, rest).T
        z0 = mean + torch.einsum("ij,bcjhw->bcihw", step, sample - alpha2.sqrt() * mean)
        return (sample - alpha2.sqrt() * z0) / (1 - alpha2).sqrt()

    return predict


def covariance(num_frames: int) -> torch.Tensor:
    """Motion that stays correlated over 20 frames, more than a window."""
    frames = torch.arange(num_frames, dtype=torch.float64)
    return (-(frames[:, None] - frames[None]).abs() / 20).exp()


def border_over_interior(overlap: int, noise: float, weights: Weights = "count") -> float:
    """Mean squared difference of neighbouring frames where windows begin or end, over that of all others."""
    scheduler = DDIMScheduler(clip_sample=False)
    sampler = Sampler(scheduler, "ddim", 20, torch.device("cpu"))
    clean = torch.einsum("ij,bcjhw->bcihw", torch.linalg.cholesky(covariance(NUM_FRAMES)),
                         make_video(1, PIXELS, NUM_FRAMES, 1, 1, seed=1))  # fmt: skip
    seen = clean + noise * make_video(1, PIXELS, NUM_FRAMES, 1, 1, seed=2)
    tiling = Tiling(frames=WINDOW, frame_overlap=overlap, batch=8, weights=weights)
    denoiser = multidiffusion(exact_denoiser(scheduler.alphas_cumprod.double(), noise), tiling)
    zt = make_video(1, PIXELS, NUM_FRAMES, 1, 1, seed=3)
    for index, step in enumerate(sampler.timesteps):
        zt = sampler.step(denoiser(zt, step.expand(1), zt[0, :1, 0], seen), index, zt, [torch.Generator()])
    differences = (zt[:, :, 1:] - zt[:, :, :-1]).square().mean(dim=(0, 1, 3, 4))
    places = cuts(NUM_FRAMES, WINDOW, overlap)
    ends = {place.start for place in places} | {place.stop for place in places}
    borders = torch.tensor([frame - 1 for frame in ends if 0 < frame < NUM_FRAMES])
    inside = torch.ones(NUM_FRAMES - 1, dtype=torch.bool)
    inside[borders] = False
    return (differences[borders].mean() / differences[inside].mean()).item()


def test_borders_of_super_resolution_are_like_the_interior_and_those_of_concatenation_are_not() -> None:
    weighted = border_over_interior(2, NOISE_ON_CONDITION, "ramp")
    counted = border_over_interior(2, NOISE_ON_CONDITION)
    concatenated = border_over_interior(0, NOISE_ON_CONDITION)
    assert weighted <= 1.1
    assert weighted < counted <= 1.15
    assert concatenated >= 1.35


def test_without_a_low_resolution_copy_borders_are_ten_times_better_than_concatenated() -> None:
    unseen = 100.0  # noise that hides the copy
    assert border_over_interior(0, unseen) - 1 >= 10 * (border_over_interior(2, unseen) - 1) > 0
