"""Videos of any length and size through the autoencoder: what is exact, what is blended, what memory it takes."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from torch import nn

from demo import world
from nuwa.hierarchy import NuwaError
from nuwa.models.vae import TemporalVAE
from nuwa.models.vae_chunks import (
    Pieces,
    cross_fade,
    decode_chunked,
    decode_stream,
    encode_chunked,
    encode_stream,
    reach,
)
from nuwa.models.vae_tiles import Tiling, in_tiles

WEIGHT = 0.05
DEMO_VAE = Path(__file__).parents[2] / "demo" / "weights" / "pipeline" / "vae"


def make_vae(attention: bool, *, temporal: bool = True) -> TemporalVAE:
    """Two resolutions, float64; with `temporal`, random weights in the temporal layers."""
    torch.manual_seed(0)
    image = AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
        mid_block_add_attention=attention,
    )
    vae = TemporalVAE.from_image_vae(image).double().eval()
    if temporal:
        with torch.no_grad():
            for weight in vae.temporal_parameters():
                weight += WEIGHT * torch.randn_like(weight)
    return vae


def latents_of(num_frames: int, side: int = 4) -> torch.Tensor:
    return torch.randn(1, 4, num_frames, side, side, generator=torch.Generator().manual_seed(1)).double()


def video_of(num_frames: int, side: int = 8) -> torch.Tensor:
    return torch.rand(1, 3, num_frames, side, side, generator=torch.Generator().manual_seed(2)).double() * 2 - 1


def largest(vae: nn.Module, run: Callable[[], object]) -> int:
    """Elements of the largest tensor that leaves any module while `run` runs."""
    sizes: list[int] = []

    def note(_: nn.Module, __: object, output: object) -> None:
        if isinstance(output, torch.Tensor):
            sizes.append(output.numel())

    handles = [module.register_forward_hook(note) for module in vae.modules()]
    run()
    for handle in handles:
        handle.remove()
    return max(sizes)


@torch.no_grad()
def test_convolutions_over_time_are_exact_with_an_overlap_of_twice_their_reach() -> None:
    vae = make_vae(attention=False)
    near, far = reach(vae.encoder), reach(vae.decoder)
    assert (near, far) == (11, 15)  # 2 per residual block, 1 for each resampling, first and last convolution
    video, latents = video_of(75), latents_of(75)
    gaussian = encode_chunked(vae, video, Pieces(frames=26, overlap=2 * near))
    assert (gaussian.mean - vae.encode(video).mean).abs().max() < 1e-12
    assert (gaussian.logvar - vae.encode(video).logvar).abs().max() < 1e-12
    whole = vae.decode(latents)
    assert (decode_chunked(vae, latents, Pieces(frames=33, overlap=2 * far)) - whole).abs().max() < 1e-12
    assert (decode_chunked(vae, latents, Pieces(frames=33, overlap=8)) - whole).abs().max() > 1e-6


@torch.no_grad()
def test_reach_is_the_distance_beyond_which_nothing_changes() -> None:
    vae, latents = make_vae(attention=False), latents_of(41, side=2)
    changed = latents.clone()
    changed[:, :, 20] += 1
    moved = (vae.decode(changed) - vae.decode(latents)).abs().amax(dim=(0, 1, 3, 4)).nonzero().flatten().tolist()
    assert moved == list(range(20 - 15, 20 + 16))
    assert reach(make_vae(attention=True).decoder) is None


@pytest.mark.parametrize("overlap", [0, 3])
@torch.no_grad()
def test_temporal_layers_at_the_identity_make_chunks_exact(overlap: int) -> None:
    vae, pieces = make_vae(attention=True, temporal=False), Pieces(frames=5, overlap=overlap)
    video, latents = video_of(13), latents_of(13)
    assert (encode_chunked(vae, video, pieces).mean - vae.encode(video).mean).abs().max() < 1e-12
    assert (decode_chunked(vae, latents, pieces) - vae.decode(latents)).abs().max() < 1e-12


@torch.no_grad()
def test_with_attention_over_time_frames_of_one_chunk_only_are_those_of_its_decode() -> None:
    vae, latents = make_vae(attention=True), latents_of(12)
    video = decode_chunked(vae, latents, Pieces(frames=8, overlap=4))
    assert torch.equal(video[:, :, :4], vae.decode(latents[:, :, :8])[:, :, :4])
    assert torch.equal(video[:, :, 8:], vae.decode(latents[:, :, 4:])[:, :, 4:])
    first, second = vae.decode(latents[:, :, :8]), vae.decode(latents[:, :, 4:])
    for frame, weight in ((4, 0.2), (5, 0.4), (6, 0.6), (7, 0.8)):
        expected = (1 - weight) * first[:, :, frame] + weight * second[:, :, frame - 4]
        assert (video[:, :, frame] - expected).abs().max() < 1e-6


@pytest.mark.parametrize("num_frames", [1, 4, 7, 8, 9, 10, 23])
@pytest.mark.parametrize("overlap", [0, 1, 3])
@torch.no_grad()
def test_every_length_comes_out_whole_and_in_order(num_frames: int, overlap: int) -> None:
    vae = make_vae(attention=True, temporal=False)
    latents = latents_of(num_frames, side=2)
    video = decode_chunked(vae, latents, Pieces(frames=4, overlap=overlap))
    assert video.shape == (1, 3, num_frames, 4, 4)
    assert (video - vae.decode(latents)).abs().max() < 1e-12


@torch.no_grad()
def test_all_chunks_but_of_shorter_videos_are_full() -> None:
    """One shape for the kernels: the last chunk is moved back instead of cut short."""
    vae, lengths = make_vae(attention=True), []
    vae.decoder.register_forward_pre_hook(lambda _, inputs: lengths.append(inputs[1]))
    decode_chunked(vae, latents_of(23, side=2), Pieces(frames=8, overlap=2))
    assert lengths == [8] * 4
    decode_chunked(vae, latents_of(3, side=2), Pieces(frames=8, overlap=2))
    assert lengths[4:] == [3]


def test_a_stream_gives_frames_as_soon_as_a_chunk_is_there() -> None:
    vae, asked = make_vae(attention=True), []

    def source() -> Iterator[torch.Tensor]:
        for number, latent in enumerate(latents_of(20, side=2).unbind(dim=2)):
            asked.append(number)
            yield latent

    stream = decode_stream(vae, source(), Pieces(frames=8, overlap=2))
    assert next(stream).shape == (1, 3, 4, 4)
    assert len(asked) == 8
    assert len(list(stream)) == 19
    assert not next(iter(decode_stream(vae, latents_of(2, side=2).unbind(2), Pieces()))).requires_grad
    gaussian = next(encode_stream(vae, video_of(3).unbind(2), Pieces(frames=2, overlap=0)))
    assert gaussian.mean.shape == (1, 4, 1, 4, 4)


def test_memory_is_flat_in_the_length_of_the_video() -> None:
    vae, pieces = make_vae(attention=True), Pieces(frames=6, overlap=2)
    for run in (
        lambda n: decode_chunked(vae, latents_of(n, side=2), pieces),
        lambda n: encode_chunked(vae, video_of(n, side=4), pieces),
    ):
        short, long = (largest(vae, lambda run=run, n=n: run(n)) for n in (6, 60))
        assert short == long
    assert largest(vae, lambda: vae.decode(latents_of(60, side=2))) == 10 * largest(
        vae, lambda: vae.decode(latents_of(6, side=2))
    )


def test_memory_is_bounded_in_resolution() -> None:
    vae, pieces = make_vae(attention=True), Pieces(frames=2, overlap=0, tile_px=8, tile_overlap_px=4)
    for run in (
        lambda side: decode_chunked(vae, latents_of(3, side=side // 2), pieces),
        lambda side: encode_chunked(vae, video_of(3, side=side), pieces),
    ):
        small, large = (largest(vae, lambda run=run, side=side: run(side)) for side in (8, 40))
        assert small == large


def test_tiles_of_what_knows_no_neighbours_are_exact() -> None:
    """Shares of all tiles add up to 1 at every pixel, and pixels come out where they belong."""
    video = video_of(2, side=22)[..., :14]
    for overlap in (0, 1, 3):
        tiling = Tiling(size=5, overlap=overlap, unit_in=2, unit_out=2)
        assert (in_tiles(lambda tile: 3 * tile, video, tiling) - 3 * video).abs().max() < 1e-12


def test_tiles_cross_fade_linearly() -> None:
    """Two tiles that answer with their own number: 0 … 0, then the ramp, then 1 … 1."""
    answers = iter((0.0, 1.0))
    tiling = Tiling(size=5, overlap=3, unit_in=1, unit_out=1)
    made = in_tiles(lambda tile: torch.full_like(tile, next(answers)), torch.zeros(1, 1, 1, 1, 7).double(), tiling)
    assert made.flatten().tolist() == pytest.approx([0, 0, 0.25, 0.5, 0.75, 1, 1])


@torch.no_grad()
def test_a_frame_that_is_one_tile_is_decoded_whole() -> None:
    vae, latents = make_vae(attention=True), latents_of(3)
    assert torch.equal(decode_chunked(vae, latents, Pieces(frames=3, overlap=0, tile_px=8)), vae.decode(latents))


def test_cross_fade_keeps_away_from_the_borders_of_both_chunks() -> None:
    before, after = torch.zeros(1, 1, 6, 1, 1), torch.ones(1, 1, 8, 1, 1)
    assert cross_fade(before, after).flatten().tolist() == pytest.approx([n / 7 for n in range(1, 7)] + [1, 1])
    assert cross_fade(before, after, 2).flatten().tolist() == pytest.approx([0, 0, 1 / 3, 2 / 3, 1, 1, 1, 1])
    assert cross_fade(before, after, 3).flatten().tolist() == [0, 0, 0, 1, 1, 1, 1, 1]
    assert torch.equal(cross_fade(before[:, :, :0], after), after)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"frames": 0}, "chunks of 0 frames"),
        ({"frames": 4, "overlap": 4}, "overlap 4 does not fit chunks of 4 frames; give 0 to 3"),
        ({"overlap": -1}, "overlap -1"),
        ({"tile_px": 0}, "tiles of 0 px"),
        ({"tile_px": 8, "tile_overlap_px": 8}, "an overlap of 8 px"),
        ({"tile_px": 8, "tile_overlap_px": -2}, "an overlap of -2 px"),
        ({"tile_overlap_px": 2}, "there are no tiles"),
    ],
)
def test_pieces_that_cover_nothing_are_refused(options: dict[str, int], message: str) -> None:
    with pytest.raises(NuwaError, match=message) as caught:
        Pieces(**options)
    assert "\n" not in str(caught.value)


def test_what_does_not_fit_the_autoencoder_is_refused() -> None:
    vae = make_vae(attention=True)
    with pytest.raises(NuwaError, match="multiples of 2"):
        decode_chunked(vae, latents_of(3), Pieces(tile_px=7))
    with pytest.raises(NuwaError, match="an overlap of 3 px do not fit"):
        encode_chunked(vae, video_of(3), Pieces(tile_px=8, tile_overlap_px=3))
    with pytest.raises(NuwaError, match=r"frame of shape \(1, 3, 7, 8\)"):
        encode_chunked(vae, video_of(3)[..., 1:, :], Pieces(tile_px=4))
    with pytest.raises(NuwaError, match="without frames"):
        decode_chunked(vae, latents_of(0), Pieces())
    with pytest.raises(NuwaError, match="5 channels"):
        decode_chunked(vae, torch.zeros(1, 5, 3, 4, 4), Pieces())
    with pytest.raises(NuwaError, match="in one video"):
        list(decode_stream(vae, [latents_of(1)[:, :, 0], latents_of(1, side=2)[:, :, 0]], Pieces()))


@pytest.fixture(scope="module")
def demo_vae() -> TemporalVAE:
    """The trained autoencoder that ships: windows of 16 frames, attention over time."""
    return TemporalVAE.from_pretrained(DEMO_VAE).float().eval()


def toon(num_frames: int, side: int) -> torch.Tensor:
    """A shot of the toon world: (1 3 t h w) in [−1, 1]."""
    episode = world.random_episode(3, fps=8.0)
    frames = np.stack([world.draw_frame(episode, number, side, side) for number in range(num_frames)])
    return torch.from_numpy(frames).permute(3, 0, 1, 2)[None].float() / 127.5 - 1.0


def levels(video: torch.Tensor) -> torch.Tensor:
    """Size of a difference in levels of 256."""
    return video.abs() * 127.5


@torch.no_grad()
def test_trained_model_chunks_differ_from_the_whole_by_less_than_a_level(demo_vae: TemporalVAE) -> None:
    """Measured: 0.04 levels in the mean and 0.9 at most with an overlap of 4 frames; 3.7 at most without."""
    video = toon(48, 32)
    gaussian = demo_vae.encode(video)
    whole = demo_vae.decode(gaussian.mean)
    blended, cut = (decode_chunked(demo_vae, gaussian.mean, Pieces(frames=16, overlap=n)) for n in (4, 0))
    assert levels(blended - whole).mean() < 0.1
    assert levels(blended - whole).max() < 1.5 < levels(cut - whole).max()
    losses = [(made - video).square().mean() for made in (whole, blended)]
    assert losses[1] < 1.001 * losses[0]
    latents = encode_chunked(demo_vae, video, Pieces(frames=16, overlap=4)).mean
    assert (latents - gaussian.mean).norm() < 0.002 * gaussian.mean.norm()


@torch.no_grad()
def test_trained_model_no_jump_where_chunks_meet(demo_vae: TemporalVAE) -> None:
    """Frame to frame the blended decode moves as the whole one does, also at the borders 12 … 16."""
    latents = demo_vae.encode(toon(48, 32)).mean
    whole = demo_vae.decode(latents).diff(dim=2)
    moves = [decode_chunked(demo_vae, latents, Pieces(frames=16, overlap=n)).diff(dim=2) for n in (4, 0)]
    blended, cut = (levels(move - whole).mean(dim=(0, 1, 3, 4)).max() for move in moves)
    assert blended < 0.15 < cut


@torch.no_grad()
def test_trained_model_tiles_reconstruct_as_well_as_whole_frames(demo_vae: TemporalVAE) -> None:
    """At 64 px with tiles of 48: the error against the source is that of whole frames; smaller tiles and no overlap
    cost much more, because group normalisation and attention see only the tile."""
    video = toon(4, 64)
    latents = demo_vae.encode(video).mean

    def error(tile_px: int | None, overlap_px: int | None) -> float:
        pieces = Pieces(frames=4, overlap=0, tile_px=tile_px, tile_overlap_px=overlap_px)
        return float((decode_chunked(demo_vae, latents, pieces) - video).square().mean())

    whole = error(None, None)
    assert error(48, 16) < 1.1 * whole
    assert error(32, 16) < 0.6 * error(32, 0)
