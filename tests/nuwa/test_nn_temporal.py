"""Temporal modules: the identity at first (NUWA-XL Eq. 1 and 2), the plain sums afterwards."""

import pytest
import torch
from einops import rearrange
from torch.nn import functional

from nuwa.hierarchy import NuwaError
from nuwa.nn.attention import MAX_ROWS, attend
from nuwa.nn.embedding import frame_positions
from nuwa.nn.frames import fold, unfold
from nuwa.nn.temporal_attention import TemporalAttention, num_heads_of
from nuwa.nn.temporal_conv import TemporalConv


def make_frames(batch: int = 2, channels: int = 8, num_frames: int = 5, size: int = 4) -> torch.Tensor:
    return fold(torch.randn(batch, channels, num_frames, size, size))


def shake(module: torch.nn.Module) -> torch.nn.Module:
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return module


def test_fold_keeps_frames_together_and_comes_back() -> None:
    video = torch.randn(2, 3, 4, 5, 6)
    frames = fold(video)
    assert torch.equal(frames[4 + 2], video[1, :, 2])
    assert frames.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(unfold(frames, 4), video)


@pytest.mark.parametrize("kernel_size", [1, 3, 5])
def test_eq1_weight_is_one_at_the_centre_of_the_diagonal(kernel_size: int) -> None:
    conv = TemporalConv(4, kernel_size)
    expected = torch.zeros(4, 4, kernel_size)
    for channel in range(4):
        expected[channel, channel, (kernel_size - 1) // 2] = 1
    assert torch.equal(conv.weight, expected)
    assert torch.equal(conv.bias, torch.zeros(4))


def test_eq1_convolution_is_the_identity_bitwise() -> None:
    frames = make_frames(channels=64)
    assert torch.equal(TemporalConv(64)(frames, 5), frames)


def test_convolution_is_conv1d_over_the_frames_of_each_pixel() -> None:
    conv, frames = shake(TemporalConv(8)).double(), make_frames().double()
    pixels = rearrange(frames, "(b t) c h w -> (b h w) c t", t=5)
    expected = functional.conv1d(pixels, conv.weight, conv.bias, padding=1)
    expected = rearrange(expected, "(b h w) c t -> (b t) c h w", h=4, w=4)
    assert (conv(frames, 5) - expected).abs().max() < 1e-12


def test_convolution_moves_no_memory() -> None:
    out = shake(TemporalConv(8))(make_frames(), 5)
    assert out.is_contiguous(memory_format=torch.channels_last)


def test_even_kernel_is_refused() -> None:
    with pytest.raises(NuwaError, match="odd"):
        TemporalConv(8, 4)


def test_eq2_attention_is_the_identity_bitwise() -> None:
    frames = make_frames()
    assert torch.equal(TemporalAttention(8, 2)(frames, 5), frames)


def test_attention_is_softmax_over_the_frames_of_each_pixel() -> None:
    module, frames = shake(TemporalAttention(8, 1)).double(), make_frames().double()
    out = unfold(module(frames, 5), 5)
    pixels = rearrange(unfold(frames, 5)[1, :, :, 2, 3], "c t -> t c")
    hidden = module.norm(pixels)
    hidden = hidden + frame_positions(5, 8, hidden)
    query, key, value = module.to_qkv(hidden).chunk(3, dim=-1)
    weights = (query @ key.T / 8**0.5).softmax(dim=-1)
    expected = pixels + module.to_out(weights @ value)
    assert (rearrange(out[1, :, :, 2, 3], "c t -> t c") - expected).abs().max() < 1e-12


def test_trained_modules_never_mix_videos_or_pixels() -> None:
    for module in (shake(TemporalConv(8)), shake(TemporalAttention(8, 2))):
        frames = make_frames()
        changed = unfold(frames, 5)
        changed[0, :, 2, 1, 1] += 1
        difference = unfold(module(fold(changed), 5) - module(frames, 5), 5).abs().sum(dim=1)
        assert difference[0, :, 1, 1].sum() > 0
        difference[0, :, 1, 1] = 0
        assert difference.sum() == 0


def test_attention_tells_frames_apart_by_position() -> None:
    module, frames = shake(TemporalAttention(8, 2)), make_frames(batch=1)
    assert not torch.allclose(module(frames.flip(0), 5).flip(0), module(frames, 5), atol=1e-4)


def test_chunked_attention_equals_whole_attention() -> None:
    query, key, value = torch.randn(3, 11, 2, 5, 4)
    assert torch.allclose(attend(query, key, value, max_rows=4), attend(query, key, value), atol=1e-6)


def test_folded_batch_past_65535_rows_never_reaches_the_kernel_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """64 windows of 32×32 latents are 65 536 rows; fused kernels on CUDA refuse more than 65 535."""
    sizes = []
    plain = functional.scaled_dot_product_attention

    def recorded(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        sizes.append(len(query))
        return plain(query, key, value)

    monkeypatch.setattr(functional, "scaled_dot_product_attention", recorded)
    module = shake(TemporalAttention(2, 1))
    frames = fold(torch.randn(64, 2, 2, 32, 32))
    with torch.no_grad():
        out = module(frames, 2)
        last = module(frames[-2:], 2)
    assert sizes[:2] == [MAX_ROWS, 1]
    assert torch.allclose(out[-2:], last, atol=1e-6)


def test_heads_divide_channels() -> None:
    assert [num_heads_of(channels) for channels in (32, 64, 96, 512)] == [1, 1, 1, 8]
