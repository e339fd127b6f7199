"""Temporal resampling and inflated convolution at init (Lumiere Sec. 3.1, App. B), in float64."""

import pytest
import torch
from einops import rearrange
from torch.nn import functional

from nuwa.hierarchy import NuwaError
from nuwa.nn.frames import fold, unfold
from nuwa.nn.resampling import InflatedConv, TemporalDownsample, TemporalUpsample, frames_at
from nuwa.nn.temporal_conv import TemporalConv

CHANNELS = 6


def frames_of(num_frames: int, seed: int = 0) -> torch.Tensor:
    """Folded frames ((2 t) c 3 4)."""
    generator = torch.Generator().manual_seed(seed)
    return fold(torch.randn(2, CHANNELS, num_frames, 3, 4, generator=generator, dtype=torch.float64))


def randomised(module: torch.nn.Module) -> torch.nn.Module:
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return module.double()


@pytest.mark.parametrize("num_frames", [1, 2, 5, 8])
def test_at_init_downsampling_is_every_other_frame_bitwise(num_frames: int) -> None:
    frames = frames_of(num_frames)
    half = TemporalDownsample(CHANNELS).double()(frames, num_frames)
    assert torch.equal(unfold(half, frames_at(num_frames, 2)), unfold(frames, num_frames)[:, :, ::2])


@pytest.mark.parametrize("num_frames", [1, 2, 5, 8])
def test_at_init_upsampling_is_every_frame_twice_bitwise(num_frames: int) -> None:
    frames = frames_of(frames_at(num_frames, 2))
    twice = unfold(TemporalUpsample(CHANNELS).double()(frames, num_frames), num_frames)
    source = unfold(frames, frames_at(num_frames, 2))
    assert all(torch.equal(twice[:, :, k], source[:, :, k // 2]) for k in range(num_frames))


def test_downsampling_is_a_temporal_convolution_then_every_other_frame() -> None:
    down = randomised(TemporalDownsample(CHANNELS))
    conv = TemporalConv(CHANNELS).double()
    conv.load_state_dict(down.state_dict())
    frames = frames_of(7)
    expected = unfold(conv(frames, 7), 7)[:, :, ::2]
    assert (unfold(down(frames, 7), 4) - expected).abs().max() < 1e-12


@pytest.mark.parametrize("kernel_size", [1, 3, 5])
@pytest.mark.parametrize("num_frames", [1, 2, 5, 8])
def test_upsampling_is_a_temporal_convolution_of_every_frame_twice(num_frames: int, kernel_size: int) -> None:
    """As torch's own convolution over the frames of every pixel has it."""
    up, frames = randomised(TemporalUpsample(CHANNELS, kernel_size)), frames_of(frames_at(num_frames, 2))
    assert isinstance(up, TemporalUpsample)
    assert set(up.state_dict()) == {"conv.weight", "conv.bias"}
    video = unfold(frames, frames_at(num_frames, 2))  # b c t h w
    twice = torch.stack([video[:, :, frame // 2] for frame in range(num_frames)], dim=-1)  # b c h w t
    pixels = rearrange(twice, "b c h w t -> (b h w) c t")
    expected = functional.conv1d(pixels, up.conv.weight, up.conv.bias, padding=kernel_size // 2)
    expected = rearrange(expected, "(b h w) c t -> (b t) c h w", h=3, w=4)
    assert (up(frames, num_frames) - expected).abs().max() < 1e-12


def test_up_after_down_frames_2k_and_2k_plus_1_depend_on_frame_2k_only() -> None:
    down, up = TemporalDownsample(CHANNELS).double(), TemporalUpsample(CHANNELS).double()
    pixels = frames_of(8)[:8, 0, 0, 0].clone().requires_grad_()

    def both(values: torch.Tensor) -> torch.Tensor:
        frames = rearrange(values, "t -> t 1 1 1").expand(-1, CHANNELS, 2, 2)
        return up(down(frames, 8), 8)[:, 0, 0, 0]

    jacobian = torch.autograd.functional.jacobian(both, pixels)
    expected = torch.zeros(8, 8, dtype=torch.float64)
    for frame in range(8):
        expected[frame, 2 * (frame // 2)] = 1.0
    assert torch.equal(jacobian, expected)


def test_resampling_learns_to_mix_neighbouring_frames() -> None:
    frames = frames_of(8)
    changed = frames.clone()
    changed[1] += 1  # frame 1 of the first video
    down = randomised(TemporalDownsample(CHANNELS))
    difference = unfold((down(changed, 8) - down(frames, 8)).abs(), 4).amax(dim=(1, 3, 4))
    assert (difference[0, :2] > 1e-3).all()
    assert difference[0, 2:].max() == 0
    assert difference[1].max() == 0


def test_inflated_convolution_is_the_identity_bitwise_at_init_and_not_after_one_step() -> None:
    conv = InflatedConv(CHANNELS, num_groups=4).double()
    frames = frames_of(5)
    assert torch.equal(conv(frames, 5), frames)
    optimizer = torch.optim.SGD(conv.parameters(), lr=0.1)
    (conv(frames, 5) * frames_of(5, seed=1)).sum().backward()
    optimizer.step()
    assert (conv(frames, 5) - frames).abs().max() > 1e-3


def test_inflated_convolution_mixes_space_then_time_and_normalises_each_frame_alone() -> None:
    conv = randomised(InflatedConv(CHANNELS, num_groups=4))
    conv.conv_time.weight.data[:, :, [0, 2]] = 0  # a kernel that looks at no other frame
    frames = frames_of(5)
    changed = frames.clone()
    changed[2, :, 0, 0] += 1
    difference = (conv(changed, 5) - conv(frames, 5)).abs().amax(dim=(1, 2, 3))
    assert difference[2] > 1e-3
    assert difference[[0, 1, 3, 4]].max() == 0


def test_frames_of_a_level() -> None:
    assert [frames_at(80, 2**level) for level in range(4)] == [80, 40, 20, 10]
    assert [frames_at(77, 2**level) for level in range(4)] == [77, 39, 20, 10]


@pytest.mark.parametrize("videos", [1, 2])
@pytest.mark.parametrize("kind", [TemporalConv, TemporalDownsample, TemporalUpsample])
def test_frames_of_one_video_stay_in_channels_last_memory_too(kind: type[torch.nn.Module], videos: int) -> None:
    """Also their gradient: in the other memory, what comes next and before is several times slower."""
    frames = fold(torch.randn(videos, 32, 8, 8, 8)).requires_grad_()
    assert frames.is_contiguous(memory_format=torch.channels_last)
    made = kind(32)(frames, 16 if kind is TemporalUpsample else 8)
    assert made.is_contiguous(memory_format=torch.channels_last)
    (gradient,) = torch.autograd.grad(made, frames, torch.ones_like(made))
    assert gradient.is_contiguous(memory_format=torch.channels_last)


def test_a_kernel_without_a_centre_is_refused() -> None:
    for module in (TemporalDownsample, TemporalUpsample):
        with pytest.raises(NuwaError, match="odd number"):
            module(CHANNELS, 4)
