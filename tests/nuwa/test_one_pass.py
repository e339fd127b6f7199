"""A clip in one pass: what is known is kept, padding is never shown, noise is a frame's own, windows join long ones."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from nuwa.generate.masks import Known, cinemagraph, extension, image_to_video, inpainting, nothing, outpainting
from nuwa.generate.multidiffusion import Tiling, multidiffusion
from nuwa.generate.one_pass import ClipSampler, ClipSampling, clip_noise, padded_length
from nuwa.generate.stunet_pipeline import StunetPipeline
from nuwa.hierarchy import NuwaError
from tests.nuwa import clip_stack
from tests.nuwa.clip_stack import FACTOR, LENGTH, SIZE


@pytest.fixture(scope="module")
def pixels() -> StunetPipeline:
    return clip_stack.build()


@pytest.fixture(scope="module")
def latents() -> StunetPipeline:
    return clip_stack.build(latents=True)


def sampling(**changes: object) -> ClipSampling:
    return ClipSampling(**({"steps": 3, "guidance": 2.0, "fps": 4.0} | changes))  # type: ignore[arg-type]


def video(frames: int = LENGTH, size: int = SIZE) -> torch.Tensor:
    """Pixels that 8 bits hold exactly."""
    generator = torch.Generator().manual_seed(frames)
    return torch.randint(256, (3, frames, size, size), generator=generator).float() / 127.5 - 1.0


def region() -> torch.Tensor:
    made = torch.zeros(SIZE, SIZE)
    made[4:10, 2:9] = 1.0
    return made


MODES: dict[str, Known] = {
    "image": image_to_video(video()[:, 0], LENGTH),
    "extend": extension(video(3), LENGTH),
    "inpaint": inpainting(video(), region()),
    "outpaint": outpainting(video(LENGTH, 8), SIZE, SIZE),
    "cinemagraph": cinemagraph(video()[:, 0], region(), LENGTH),
}


class Watched(torch.nn.Module):
    """A network and the inputs it was called with."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network, self.calls = network, list[Sequence[torch.Tensor]]()

    def __getattr__(self, name: str) -> object:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("network"), name)

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        self.calls.append(inputs)
        made: torch.Tensor = self.network(*inputs)
        return made


@pytest.fixture
def watched(pixels: StunetPipeline, monkeypatch: pytest.MonkeyPatch) -> Watched:
    network = Watched(pixels.stunet)
    monkeypatch.setattr(pixels, "stunet", network)
    return network


def frames_of(sampler: ClipSampler, made: torch.Tensor) -> np.ndarray:
    return np.stack(list(sampler.frames(made)))


@pytest.mark.parametrize("mode", list(MODES))
def test_every_known_pixel_is_kept_exactly_in_pixel_space(pixels: StunetPipeline, mode: str) -> None:
    known = MODES[mode]
    sampler = ClipSampler(pixels, sampling())
    made = sampler.sample(["a red star"] * LENGTH, known)
    given = known.mask.bool().expand(3, -1, -1, -1)
    assert torch.equal(made[given], known.video[given])
    assert (made[~given] - known.video[~given]).abs().min() > 0
    shown = frames_of(sampler, made)  # t H W 3
    wanted = ((known.video + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 3, 0).numpy()
    mask = given.permute(1, 2, 3, 0).numpy()
    np.testing.assert_array_equal(shown[mask], wanted[mask])


@pytest.mark.parametrize("mode", list(MODES))
def test_known_latents_are_kept_bitwise_and_pixels_within_the_error_of_the_autoencoder(
    latents: StunetPipeline, mode: str
) -> None:
    known = MODES[mode]
    sampler = ClipSampler(latents, sampling())
    made = sampler.sample(["a red star"] * LENGTH, known)
    seen = sampler._given(known)
    given, where = seen.video, seen.mask.bool().expand_as(seen.video)
    assert where.any()
    assert torch.equal(made[where], given[where])
    if mode != "inpaint":
        return
    # far from what was made, the decoded pixels are those that the autoencoder makes of the video that was given
    decoded = sampler._decode(made[None])[0]
    alone = sampler._decode(given[None])[0]
    far = torch.zeros(SIZE, SIZE, dtype=torch.bool)
    far[14:, 14:] = True
    assert (decoded - alone)[:, :, far].abs().max() < (decoded - alone).abs().max() / 3


@pytest.mark.parametrize("frames", [2, 3, 5, 7, 8])
def test_any_number_of_frames_is_padded_for_the_network_and_cut_for_the_eye(
    watched: Watched, pixels: StunetPipeline, frames: int
) -> None:
    known = image_to_video(video()[:, 0], frames)
    made = ClipSampler(pixels, sampling(guidance=1.0)).sample(["a red star"] * (frames - 1) + ["a star jumps"], known)
    assert made.shape == (3, frames, SIZE, SIZE)
    assert len(watched.calls) == 3
    for sample, _, prompts, condition, mask, stride, numbers in watched.calls:
        assert sample.shape[2] == padded_length(frames, FACTOR) == FACTOR * -(-frames // FACTOR)
        assert prompts.shape[1] == sample.shape[2]
        assert torch.equal(
            prompts[:, frames - 1 :], prompts[:, frames - 1 : frames].expand_as(prompts[:, frames - 1 :])
        )
        assert mask[:, :, 1:].sum() == condition[:, :, 1:].abs().sum() == 0
        assert (stride == 1).all()
        assert numbers[0, 0] == 4.0


def test_the_network_sees_seven_channels_of_pixels(watched: Watched, pixels: StunetPipeline) -> None:
    """⟨noised video, masked video, mask⟩ (Lumiere Sec. 4.2)."""
    known = MODES["inpaint"]
    ClipSampler(pixels, sampling(guidance=1.0)).sample(["a red star"] * LENGTH, known)
    sample, _, _, condition, mask, *_ = watched.calls[0]
    assert sample.shape[1] + condition.shape[1] + mask.shape[1] == 7
    assert torch.equal(condition[0], known.video)
    assert torch.equal(mask[0], known.mask)


def test_what_is_known_decides_what_is_made(pixels: StunetPipeline) -> None:
    sampler = ClipSampler(pixels, sampling())
    prompts = ["a red star"] * LENGTH
    made = [sampler.sample(prompts, known) for known in (None, MODES["image"], image_to_video(-video()[:, 0], LENGTH))]
    assert (made[0] - made[1])[:, -1].abs().max() > 1e-3
    assert (made[1] - made[2])[:, -1].abs().max() > 1e-3
    nothing_known = sampler.sample(prompts, nothing(LENGTH, SIZE, SIZE))
    assert torch.equal(nothing_known, made[0])


def test_the_noise_of_a_frame_is_its_own() -> None:
    long, short = clip_noise(3, torch.Size((1, 3, 9, 4, 4))), clip_noise(3, torch.Size((1, 3, 4, 4, 4)))
    assert torch.equal(long[:, :, :4], short)
    assert not torch.equal(clip_noise(4, short.shape), short)
    assert long.flatten().std() == pytest.approx(1.0, abs=0.1)


def test_a_clip_longer_than_it_was_trained_for_is_joined_from_windows_of_the_trained_length(
    watched: Watched, pixels: StunetPipeline
) -> None:
    frames, prompts = 14, ["a red star"] * 7 + ["a blue circle"] * 7
    made = ClipSampler(pixels, sampling(guidance=1.0, batch=2)).sample(prompts)
    assert made.shape[1] == frames
    assert {tuple(call[0].shape[:3]) for call in watched.calls} == {(2, 3, LENGTH), (1, 3, LENGTH)}
    tiling = Tiling(frames=LENGTH, frame_overlap=LENGTH // 2, batch=2, weights="ramp")
    assert len(watched.calls) == 3 * 2  # windows at 0, 4, 8, in batches of 2
    assert len(tiling.windows(16, SIZE, SIZE)) == 3
    first = watched.calls[:2]
    tokens = torch.cat([call[2] for call in first])
    assert tokens.shape[:2] == (3, LENGTH)
    assert not torch.equal(tokens[0, 0], tokens[2, 0])  # a window reads the prompts of its own frames


def test_the_first_prediction_of_a_long_clip_is_the_mean_of_its_windows(pixels: StunetPipeline) -> None:
    sampler = ClipSampler(pixels, sampling(steps=1, guidance=1.0, overlap=2))
    made = sampler.sample(["a red star"] * 16)
    tokens = pixels.encode_prompts(["a red star"])[0].expand(1, 16, -1, -1)
    noise, step = clip_noise(0, torch.Size((1, 3, 16, SIZE, SIZE))), torch.tensor([999])
    numbers = torch.tensor([[4.0, float("nan"), 0.0]])
    joined = multidiffusion(pixels.stunet, Tiling(frames=LENGTH, frame_overlap=2, weights="ramp"))
    with torch.no_grad():
        v = joined(noise, step, tokens, 0 * noise, 0 * noise[:, :1], torch.ones(1), numbers)
    assert (made + v[0]).abs().max() < 1e-4  # at pure noise z0 = −v


def test_the_same_again_is_the_same_and_seed_prompt_and_guidance_matter(pixels: StunetPipeline) -> None:
    def made(prompt: str = "a red star", **changes: object) -> torch.Tensor:
        return ClipSampler(pixels, sampling(**changes)).sample([prompt] * LENGTH)

    assert torch.equal(made(), made())
    for other in (made(seed=1), made("a blue circle"), made(guidance=5.0), made(guidance_last=4.0), made(steps=2)):
        assert (made() - other).abs().max() > 1e-4


def test_steps_are_told_one_by_one(pixels: StunetPipeline) -> None:
    told: list[tuple[int, int]] = []
    ClipSampler(pixels, sampling()).sample(["a red star"] * LENGTH, None, lambda *step: told.append(step))
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_half_precision_networks_walk_in_single(pixels: StunetPipeline) -> None:
    half = clip_stack.build().to(torch.bfloat16)
    made = ClipSampler(half, sampling()).sample(["a red star"] * LENGTH, MODES["inpaint"])
    assert made.dtype == torch.float32
    given = MODES["inpaint"].mask.bool().expand(3, -1, -1, -1)
    assert torch.equal(made[given], MODES["inpaint"].video[given])


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"steps": (3, 2)}, "steps are given for 2 levels"),
        ({"guidance": (4.0, 2.0)}, r"guidance is given for 2 levels, \(4.0, 2.0\); a clip has one: give a number"),
        ({"steps": 0}, "steps is 0"),
        ({"steps": 2000}, "noise schedule has 1000"),
        ({"overlap": -1}, "overlap is -1"),
        ({"overlap": LENGTH}, "8 frames cannot share 8"),
        ({"condition": "latents"}, "is for NUWA-XL"),
        ({"tile_px": 8}, "tile_px is 8"),
    ],
)
def test_settings_that_cannot_work_are_refused_before_anything_runs(
    pixels: StunetPipeline, changes: dict[str, object], named: str
) -> None:
    with pytest.raises(NuwaError, match=named) as caught:
        ClipSampler(pixels, sampling(**changes))
    assert "\n" not in str(caught.value)


def test_known_pixels_of_another_size_are_refused(pixels: StunetPipeline) -> None:
    with pytest.raises(NuwaError, match=r"shape \(3, 8, 16, 16\); this clip needs \(3, 6, 16, 16\)"):
        ClipSampler(pixels, sampling()).sample(["a red star"] * 6, MODES["inpaint"])


def test_what_leaves_no_latent_wholly_known_is_refused_by_the_size_of_a_square(latents: StunetPipeline) -> None:
    mask = torch.zeros(1, LENGTH, SIZE, SIZE)
    mask[..., 1:3, 1:2] = 1.0
    with pytest.raises(NuwaError, match=f"whole squares of {latents.vae.downsample_factor} px"):
        ClipSampler(latents, sampling()).sample(["a red star"] * LENGTH, Known(video() * mask, mask))


def test_padding_is_shown_to_the_network_as_unknown_pixels_encoded(
    latents: StunetPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = Watched(latents.stunet)
    monkeypatch.setattr(latents, "stunet", network)
    sampler, count = ClipSampler(latents, sampling(steps=1)), LENGTH - 3
    known = image_to_video(video()[:, 0], count)
    made = sampler.sample(["a red star"] * count, known)
    condition = network.calls[0][3][:1]
    with torch.no_grad():
        whole = sampler._encode_video(image_to_video(video()[:, 0], LENGTH).video[None])
    assert torch.allclose(condition, whole, atol=1e-5)
    assert torch.equal(made[:, 0], condition[0, :, 0])


def test_the_last_frame_shown_has_the_last_guidance_also_in_a_padded_clip(pixels: StunetPipeline) -> None:
    scales = ClipSampler(pixels, sampling(guidance=1.0, guidance_last=3.0))._scale(5, 8)
    assert isinstance(scales, torch.Tensor)
    assert scales.tolist() == [1.0, 1.5, 2.0, 2.5, 3.0, 3.0, 3.0, 3.0]
