"""What is known of a clip in every task, pixel by pixel (Lumiere Sec. 4.2)."""

import pytest
import torch
from torch.nn import functional

from nuwa.generate.masks import (
    Known,
    cinemagraph,
    extended,
    extension,
    fitted,
    image_to_video,
    in_latents,
    inpainting,
    nothing,
    outpainting,
)
from nuwa.hierarchy import NuwaError

HEIGHT, WIDTH, FRAMES = 8, 12, 5


def make_video(num_frames: int = FRAMES, height: int = HEIGHT, width: int = WIDTH) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(3, num_frames, height, width, generator=generator) * 2 - 1


def make_region() -> torch.Tensor:
    region = torch.zeros(HEIGHT, WIDTH)
    region[2:5, 3:9] = 1
    return region


def every_task() -> dict[str, Known]:
    video = make_video()
    return {
        "image to video": image_to_video(video[:, 0], FRAMES),
        "extension": extension(video[:, :3], FRAMES),
        "inpainting": inpainting(video, make_region()),
        "outpainting": outpainting(video[:, :, 2:6, 3:9], HEIGHT, WIDTH),
        "cinemagraph": cinemagraph(video[:, 0], make_region(), FRAMES),
    }


@pytest.mark.parametrize("task", list(every_task()))
def test_known_pixels_are_kept_bitwise_and_unknown_ones_are_zero(task: str) -> None:
    known, made = every_task()[task], torch.full((3, FRAMES, HEIGHT, WIDTH), 0.123)
    assert known.video.shape == (3, FRAMES, HEIGHT, WIDTH)
    assert known.mask.shape == (1, FRAMES, HEIGHT, WIDTH)
    given = known.mask.bool().expand(3, -1, -1, -1)
    assert given.any()
    assert not given.all()
    kept = known.kept_in(made)
    assert torch.equal(kept[given], known.video[given])
    assert (kept[~given] == 0.123).all()
    assert (known.video[~given] == 0).all()
    # what is given is what the user gave
    video = make_video()
    if task in ("image to video", "cinemagraph"):
        video = video[:, :1].expand_as(video)
    assert torch.equal(known.video[given], video[given])


def test_which_pixels_are_given() -> None:
    tasks, region = every_task(), make_region()
    counts = {name: known.mask.sum(dim=(0, 2, 3)).tolist() for name, known in tasks.items()}
    whole, hole = HEIGHT * WIDTH, HEIGHT * WIDTH - region.sum().item()
    assert counts == {
        "image to video": [whole, 0, 0, 0, 0],
        "extension": [whole] * 3 + [0, 0],
        "inpainting": [hole] * FRAMES,
        "outpainting": [4.0 * 6] * FRAMES,
        "cinemagraph": [whole] + [hole] * (FRAMES - 1),
    }
    assert nothing(FRAMES, HEIGHT, WIDTH).mask.sum() == 0


def test_a_region_may_move() -> None:
    region = torch.stack([make_region().roll(frame, dims=1) for frame in range(FRAMES)])
    assert torch.equal(inpainting(make_video(), region).mask[0], 1 - region)
    moving = cinemagraph(make_video()[:, 0], region.bool(), FRAMES)
    assert torch.equal(moving.mask[0, 1:], 1 - region[1:])


def test_a_batch_keeps_its_known_pixels_too() -> None:
    known = every_task()["inpainting"]
    made = torch.zeros(4, 3, FRAMES, HEIGHT, WIDTH)
    assert torch.equal(known.kept_in(made), known.video.expand_as(made))


def test_outpainting_where_it_is_told() -> None:
    video = make_video(height=4, width=6)
    known = outpainting(video, HEIGHT, WIDTH, top=0, left=6)
    assert torch.equal(known.video[:, :, :4, 6:], video)
    assert known.mask[:, :, :4, 6:].all()
    assert known.mask.sum() == video[0].numel()


def test_a_latent_is_given_where_all_its_pixels_are() -> None:
    region = torch.zeros(HEIGHT, WIDTH)
    region[3, 5] = 1
    known = in_latents(inpainting(make_video(), region), lambda video: functional.avg_pool3d(video, (1, 2, 2)), 2)
    assert known.video.shape == (3, FRAMES, HEIGHT // 2, WIDTH // 2)
    expected = torch.ones(HEIGHT // 2, WIDTH // 2)
    expected[1, 2] = 0
    assert torch.equal(known.mask, expected.expand(1, FRAMES, -1, -1))


def test_an_image_of_the_same_aspect_is_resized_and_of_the_same_size_is_kept() -> None:
    image = make_video()[:, 0]
    assert torch.equal(fitted(image, HEIGHT, WIDTH), image)
    large = fitted(image, 2 * HEIGHT, 2 * WIDTH)
    assert large.shape == (3, 2 * HEIGHT, 2 * WIDTH)
    assert large.abs().max() <= 1
    flat = torch.full((3, HEIGHT, WIDTH), 0.25)
    assert (fitted(flat, HEIGHT // 2, WIDTH // 2) - 0.25).abs().max() < 1e-6


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: inpainting(make_video(), torch.ones(HEIGHT, WIDTH + 1)), "mask is 13×8, the frames are 12×8 px"),
        (lambda: inpainting(make_video(), torch.ones(3, HEIGHT, WIDTH)), "mask is 12×8×3"),
        (lambda: inpainting(make_video(), make_region() * 255), "values from 0 to 255"),
        (lambda: inpainting(make_video(), make_region() * 0), "mask is empty"),
        (lambda: cinemagraph(make_video()[:, 0], torch.ones(4, 4), FRAMES), "mask is 4×4, the frames are 12×8"),
        (lambda: fitted(make_video()[:, 0], HEIGHT, HEIGHT), "image is 12×8 px, the model makes 8×8; crop"),
        (lambda: extension(make_video(), FRAMES), "5 given frames leave nothing to make of 5"),
        (lambda: extension(make_video()[:, :0], FRAMES), "0 given frames"),
        (lambda: outpainting(make_video(), HEIGHT, WIDTH), "no border to make"),
        (lambda: outpainting(make_video(), HEIGHT + 4, WIDTH, top=5), "no border to make"),
        (lambda: image_to_video(make_video()[:2, 0], FRAMES), r"shape \(2, 1, 8, 12\)"),
        (lambda: image_to_video(make_video()[:, 0] * 300, FRAMES), "scale them to"),
        (lambda: image_to_video(make_video()[:, 0] / 0, FRAMES), "scale them to"),
        (lambda: in_latents(every_task()["extension"], lambda video: video, 5), "no multiple of the autoencoder's 5"),
    ],
)
def test_what_does_not_fit_is_one_line(call, named: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(NuwaError, match=named) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_a_clip_is_extended_by_frames_of_zeros() -> None:
    video = make_video()
    longer = extended(video, FRAMES + 3)
    assert torch.equal(longer[:, :FRAMES], video)
    assert longer.shape[1] == FRAMES + 3
    assert not longer[:, FRAMES:].any()
    assert torch.equal(extended(video, FRAMES), video)
