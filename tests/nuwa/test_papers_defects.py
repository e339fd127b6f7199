"""Defects known from other projects, each looked for in our modules by the measure that found it there."""

from collections.abc import Callable, Iterator

import pytest
import torch
from diffusers import UNet2DConditionModel, UNet3DConditionModel

from nuwa.hierarchy import num_frames, plan, strides
from nuwa.models.mtd import MaskTemporalUNet
from nuwa.nn.temporal_attention import TemporalAttention
from nuwa.nn.temporal_conv import TemporalConv
from tests.nuwa import stack

FRAMES = 4


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def leak(network: Callable[[torch.Tensor], torch.Tensor], sample: torch.Tensor) -> float:
    """Relative change of the other frames' output, (b c t h w), when the first frame changes."""
    changed = sample.clone()
    changed[:, :, 0] += 1.0
    with torch.no_grad():
        before, after = network(sample)[:, :, 1:], network(changed)[:, :, 1:]
    return float((after - before).norm() / before.norm())


def image_unet() -> UNet2DConditionModel:
    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=8,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=(32, 64),
        layers_per_block=1,
        cross_attention_dim=16,
        attention_head_dim=8,
        norm_num_groups=8,
    ).eval()


def peer_unet() -> UNet3DConditionModel:
    torch.manual_seed(0)
    return UNet3DConditionModel(
        sample_size=8,
        down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
        up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
        block_out_channels=(32, 64),
        layers_per_block=1,
        cross_attention_dim=16,
        attention_head_dim=8,
        norm_num_groups=8,
    ).eval()


def test_no_frame_leaks_into_another_at_init_and_in_diffusers_it_does() -> None:
    sample, step, prompts = torch.randn(1, 4, FRAMES, 8, 8), torch.tensor([500]), torch.randn(1, 6, 16)
    ours, peer = MaskTemporalUNet.from_unet(image_unet()).eval(), peer_unet()
    assert leak(lambda video: ours(video, step, prompts), sample) == 0.0
    assert leak(lambda video: peer(video, step, prompts).sample, sample) > 0.01, "the measure finds what is there"


def test_a_still_video_goes_through_every_temporal_layer_with_gain_one() -> None:
    """A peer's temporal downsampling has gain 2, so that its still video differs from its image network by 0.55."""
    still = torch.randn(1, 8, 5, 5).repeat(FRAMES, 1, 1, 1)  # (b t) c h w
    for layer in (TemporalConv(8), TemporalAttention(8, num_heads=2)):
        assert torch.equal(layer(still, FRAMES), still)


def test_a_still_video_and_its_image_give_the_same_frame() -> None:
    """An inflated peer differs from its frame-wise image network by 0.50 at init."""
    unet = image_unet().double()
    ours = MaskTemporalUNet.from_unet(unet).eval()
    image, prompts = torch.randn(1, 4, 8, 8).double(), torch.randn(1, 6, 16).double()
    video = image[:, :, None].expand(-1, -1, FRAMES, -1, -1)
    with torch.no_grad():
        expected = unet(image, torch.tensor([500]), prompts).sample
        frames = ours(video, torch.tensor([500]), prompts)
    for frame in frames.unbind(2):
        torch.testing.assert_close(frame, expected, atol=1e-12, rtol=0)


def test_pictures_trained_as_videos_of_one_frame_never_see_each_other() -> None:
    """A peer's temporal attention ignores the mask of its joint training on pictures and videos: it leaks 0.17 there.

    Here a picture is a video of one frame, a row of the batch of its own, and nothing mixes rows: shown with weights
    that are random everywhere.
    """
    denoiser = stack.build().denoiser_global
    pictures, prompts = torch.randn(3, 4, 1, 8, 8), torch.randn(3, 1, 6, 8)
    steps = torch.tensor([100, 500, 900])
    changed = pictures.clone()
    changed[0] += 1.0
    with torch.no_grad():
        before, after = (denoiser(sample, steps, prompts) for sample in (pictures, changed))
    assert torch.equal(before[1:], after[1:])
    assert not torch.equal(before[0], after[0])


@pytest.mark.parametrize("length", [3, 5, 16])
@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_every_stride_of_every_depth_is_a_setting_that_works(length: int, depth: int) -> None:
    """The only other public attempt at diffusion over diffusion raises for its own strides."""
    found = strides(length, depth)
    levels = plan(num_frames(length, depth), length)
    assert [{window.stride for window in level} for level in levels] == [{stride} for stride in found]
    denoiser = stack.build().denoiser_global
    sample, prompts = torch.randn(depth, 4, 3, 8, 8), torch.randn(depth, 6, 8)
    with torch.no_grad():
        made = denoiser(sample, torch.full((depth,), 500), prompts, stride=torch.tensor(found))
    assert made.isfinite().all()


def test_strides_are_told_apart() -> None:
    denoiser = stack.build().denoiser_global
    sample, prompts = torch.randn(1, 4, 3, 8, 8).repeat(3, 1, 1, 1, 1), torch.randn(1, 6, 8).repeat(3, 1, 1)
    with torch.no_grad():
        far, near, next_to = denoiser(sample, torch.full((3,), 500), prompts, stride=torch.tensor([225, 15, 1]))
    assert (far - near).abs().max() > 1e-4
    assert (near - next_to).abs().max() > 1e-4
