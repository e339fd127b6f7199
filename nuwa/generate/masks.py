"""What is known of a clip before it is made: masks and masked videos of every task (Lumiere Sec. 4.2).

Pixels in [−1, 1], zero where nothing is known; masks are 1 where a pixel is given. One clip has no batch axis.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from einops import rearrange, repeat
from torch.nn import functional

from nuwa.hierarchy import NuwaError


@dataclass(frozen=True)
class Known:
    """The given part of a clip.

    video: (3 t H W) in [−1, 1], zero where not given; or (c t h w), its latents
    mask: (1 t H W), or (1 t h w), 1 = given
    """

    video: torch.Tensor
    mask: torch.Tensor

    def kept_in(self, made: torch.Tensor) -> torch.Tensor:
        """`made` (… c t H W) with every given pixel put back bitwise."""
        return torch.where(self.mask > 0, self.video.to(made), made)


def nothing(num_frames: int, height: int, width: int) -> Known:
    """Text to video: no pixel is given."""
    return _known(torch.zeros(3, num_frames, height, width), torch.zeros(1, num_frames, height, width))


def image_to_video(image: torch.Tensor, num_frames: int) -> Known:
    """The first frame is given; image: (3 H W)."""
    return extension(image[:, None], num_frames)


def extension(video: torch.Tensor, num_frames: int) -> Known:
    """The first frames are given and the clip goes on to `num_frames`; video: (3 k H W) with k < num_frames."""
    _check_video(video)
    given = video.shape[1]
    if not 0 < given < num_frames:
        raise NuwaError(f"{given} given frames leave nothing to make of {num_frames}; ask for more than are given")
    padding = (0, 0, 0, 0, 0, num_frames - given)
    return _known(functional.pad(video, padding), functional.pad(torch.ones_like(video[:1]), padding))


def inpainting(video: torch.Tensor, region: torch.Tensor) -> Known:
    """Everything is given but a region; video: (3 t H W), region: (H W) or, moving, (t H W), 1 = to be made."""
    _check_video(video)
    return _known(video, 1.0 - _region(region, video.shape[1], (video.shape[2], video.shape[3])))


def outpainting(video: torch.Tensor, height: int, width: int, top: int | None = None, left: int | None = None) -> Known:
    """The video lies inside larger frames, in their middle unless told where; video: (3 t h w)."""
    _check_video(video)
    inner_height, inner_width = video.shape[2:]
    top = (height - inner_height) // 2 if top is None else top
    left = (width - inner_width) // 2 if left is None else left
    bottom, right = height - inner_height - top, width - inner_width - left
    if min(top, left, bottom, right) < 0 or (height, width) == (inner_height, inner_width):
        raise NuwaError(
            f"a video of {inner_width}×{inner_height} px at ({left}, {top}) leaves no border to make in "
            f"{width}×{height} px; give a smaller video or a place that holds it"
        )
    padding = (left, right, top, bottom)
    return _known(functional.pad(video, padding), functional.pad(torch.ones_like(video[:1]), padding))


def cinemagraph(image: torch.Tensor, region: torch.Tensor, num_frames: int) -> Known:
    """One part of an image moves: the first frame is given, the others but for a region (Lumiere Sec. 4.2).

    image: (3 H W); region: (H W) or (t H W), 1 = moves
    """
    _check_video(image[:, None])
    moves = _region(region, num_frames, (image.shape[1], image.shape[2])).clone()
    moves[:, 0] = 0.0
    return _known(repeat(image, "c h w -> c t h w", t=num_frames), 1.0 - moves)


def fitted(image: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """An image (3 h w) resized to `height` × `width`. NuwaError for another aspect: nothing is cropped unasked."""
    _check_video(image[:, None])
    if image.shape[1] * width != image.shape[2] * height:
        raise NuwaError(
            f"the image is {image.shape[2]}×{image.shape[1]} px, the model makes {width}×{height}; "
            "crop it to that aspect"
        )
    if image.shape[1:] == (height, width):
        return image
    resized = functional.interpolate(image[None], (height, width), mode="bicubic", antialias=True, align_corners=False)
    return resized[0].clamp(-1.0, 1.0)


def extended(video: torch.Tensor, num_frames: int) -> torch.Tensor:
    """A video, or a mask, (c t h w) with frames of zeros behind it up to `num_frames`."""
    return functional.pad(video, (0, 0, 0, 0, 0, num_frames - video.shape[1]))


def in_latents(known: Known, encode: Callable[[torch.Tensor], torch.Tensor], factor: int) -> Known:
    """The same in latents: the masked video encoded, a latent given where all of its pixels are.

    Known pixels are then kept within the autoencoder's error, not exactly: put them back with `kept_in` after decoding.

    encode: (1 3 t H W) → scaled latents (1 c t H/factor W/factor); factor: pixels of a side per latent
    """
    height, width = known.mask.shape[-2:]
    if height % factor or width % factor:
        raise NuwaError(f"frames of {width}×{height} px are no multiple of the autoencoder's {factor} px; resize them")
    whole = -functional.max_pool2d(-rearrange(known.mask, "c t h w -> t c h w"), factor)
    return Known(encode(known.video[None])[0], rearrange(whole, "t c h w -> c t h w"))


def _known(video: torch.Tensor, mask: torch.Tensor) -> Known:
    """Unknown pixels zeroed, by choice and not by product: what is given is bitwise what was given."""
    return Known(torch.where(mask > 0, video, torch.zeros_like(video)), mask.to(video.dtype))


def _region(region: torch.Tensor, num_frames: int, size: tuple[int, int]) -> torch.Tensor:
    """A region (H W) or (t H W) of zeros and ones as (1 t H W). NuwaError for another size or other values."""
    if region.shape not in (torch.Size(size), torch.Size((num_frames, *size))):
        given = "×".join(map(str, reversed(region.shape)))
        raise NuwaError(
            f"the mask is {given}, the frames are {size[1]}×{size[0]} px; give one of that size, "
            f"or {num_frames} of them, one per frame"
        )
    region = region.float()
    if not ((region == 0) | (region == 1)).all():
        raise NuwaError(
            f"the mask has values from {region.min():g} to {region.max():g}; give 0 (keep) and 1 (make) only"
        )
    if not region.any():
        raise NuwaError("the mask is empty, so there is nothing to make; mark the pixels to make with 1")
    frames = region if region.ndim == 3 else repeat(region, "h w -> t h w", t=num_frames)
    return frames[None]


def _check_video(video: torch.Tensor) -> None:
    """Raise NuwaError for what is no video of pixels in [−1, 1]."""
    if video.ndim != 4 or video.shape[0] != 3:
        raise NuwaError(f"a video of shape {tuple(video.shape)}; give (3, t, H, W)")
    if not (video.abs() <= 1.0).all():
        raise NuwaError(f"pixels reach from {video.min():g} to {video.max():g}; scale them to −1 (black) to 1 (white)")
