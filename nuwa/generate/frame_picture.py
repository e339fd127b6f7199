"""Windows of a real video as pictures: the way down the tree, and what goes into one window and comes out."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from einops import rearrange
from PIL import Image, ImageDraw, ImageFont

from nuwa.generate.long_video import VideoPlan
from nuwa.generate.windows import FixedFrame, WindowResult, WindowSampler, WindowTask, noise_generator
from nuwa.hierarchy import Window, children

_INK, _PALE, _EDGE, _PAPER = (40, 40, 48), (120, 120, 132), (213, 213, 222), (255, 255, 255)
_COLOURS = ((47, 111, 178), (194, 87, 26), (61, 139, 70))
_MARGIN, _GAP, _LABEL = 12, 4, 34


@dataclass(frozen=True)
class Made:
    """A window with the frames it began with and what became of it."""

    task: WindowTask
    result: WindowResult

    def child(self, video: VideoPlan, place: int) -> WindowTask:
        """The window between frames `place` and `place + 1` of this one."""
        window = children(self.task.window, video.levels, video.length)[place]
        ends = {0: self._frame(place), video.length - 1: self._frame(place + 1)}
        return WindowTask(window, video.prompts_of(window), ends)

    def _frame(self, place: int) -> FixedFrame:
        """A frame as its children get it: with the pixels of the window that made it."""
        own = FixedFrame(self.result.latents[:, place], _pixels(self.result)[:, place])
        return self.task.given.get(place, own)


def way_down(sampler: WindowSampler, video: VideoPlan, places: Sequence[int]) -> list[Made]:
    """The global window, then at every level the window at that place between two frames of the one above."""
    root = video.levels[0][0]
    made = [_sample(sampler, WindowTask(root, video.prompts_of(root)))]
    for place in places:
        made.append(_sample(sampler, made[-1].child(video, place)))
    return made


def draw_way_down(made: Sequence[Made], places: Sequence[int], frame_px: int) -> Image.Image:
    """A strip of frames per level; lines lead from two neighbours to the window that fills between them."""
    strips = [_strip(_frames(window.result), frame_px) for window in made]
    between = 74
    width = strips[0].width + 2 * _MARGIN
    height = (_LABEL + frame_px + 10) * len(strips) + between * (len(strips) - 1) + 2 * _MARGIN
    page = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(page)
    top = _MARGIN
    for level, (window, strip) in enumerate(zip(made, strips, strict=True)):
        _title(draw, (_MARGIN, top), _name(window.task.window), _prompts_in_short(window.task.prompts), level)
        strip_top = top + _LABEL
        page.paste(strip, (_MARGIN, strip_top))
        _mark_given(draw, window.task, frame_px, strip_top, level)
        if level < len(places):
            _lead(draw, places[level], frame_px, strip_top + frame_px + 2, between + 10, strip.width, level + 1)
        top = strip_top + frame_px + 10 + between
    return page


def draw_window(sampler: WindowSampler, made: Made, frame_px: int) -> Image.Image:
    """What one window is made from, row by row: known pixels, mask, noise; and its frames."""
    length, window = made.result.latents.shape[1], made.task.window
    pixels = torch.zeros_like(_pixels(made.result))
    mask = torch.full_like(pixels, -1.0)
    for place, frame in made.task.given.items():
        pixels[:, place], mask[:, place] = frame.pixels, 1.0
    generator = noise_generator(sampler.sampling.seed, "window", window.level, window.index)
    noise = torch.randn(made.result.latents.shape, generator=generator)
    noised = sampler.decode(noise[None])[0].float().cpu()
    noise_name = f"noise of seed {sampler.sampling.seed}, level {window.level}, window {window.index}"
    rows = {
        "condition: known pixels, unknown ones zero (grey), then encoded": pixels,
        "mask: 1 where a frame is known": mask,
        f"{noise_name} (decoded to be seen)": noised,
        f"after {sampler.sampling.steps_at(window.level)} steps: the {length - 2} frames between": made.result.pixels,
    }
    strips = {name: _strip(_images(video), frame_px) for name, video in rows.items() if video is not None}
    width = next(iter(strips.values())).width + 2 * _MARGIN
    page = Image.new("RGB", (width, (frame_px + 30) * len(strips) + 2 * _MARGIN), _PAPER)
    draw = ImageDraw.Draw(page)
    for number, (name, strip) in enumerate(strips.items()):
        top = _MARGIN + number * (frame_px + 30)
        draw.text((_MARGIN, top), name, _INK, _font(13))
        page.paste(strip, (_MARGIN, top + 20))
    return page


def _sample(sampler: WindowSampler, task: WindowTask) -> Made:
    return Made(task, sampler.sample([task], pixels=True)[0])


def _pixels(result: WindowResult) -> torch.Tensor:
    assert result.pixels is not None, "windows here are sampled with their pixels"
    return result.pixels


def _frames(result: WindowResult) -> list[np.ndarray]:
    return _images(_pixels(result))


def _images(video: torch.Tensor) -> list[np.ndarray]:
    """(3 l H W) in [−1, 1] to l images, uint8 (H W 3)."""
    shown = rearrange(video, "c l h w -> l h w c").add(1).mul(127.5).round().clamp(0, 255)
    return list(shown.to(torch.uint8).numpy())


def _strip(frames: Sequence[np.ndarray], frame_px: int) -> Image.Image:
    """Frames side by side, each `frame_px` wide and high."""
    strip = Image.new("RGB", (len(frames) * (frame_px + _GAP) - _GAP, frame_px), _PAPER)
    draw = ImageDraw.Draw(strip)
    for place, frame in enumerate(frames):
        enlarged = Image.fromarray(frame).resize((frame_px, frame_px), Image.Resampling.NEAREST)
        left = place * (frame_px + _GAP)
        strip.paste(enlarged, (left, 0))
        draw.rectangle((left, 0, left + frame_px - 1, frame_px - 1), outline=_EDGE)
    return strip


def _mark_given(draw: ImageDraw.ImageDraw, task: WindowTask, frame_px: int, top: int, level: int) -> None:
    """A frame in the colour of the level above around every frame that was given."""
    for place in task.given:
        left = _MARGIN + place * (frame_px + _GAP)
        box = (left - 2, top - 2, left + frame_px + 1, top + frame_px + 1)
        draw.rectangle(box, outline=_COLOURS[(level - 1) % len(_COLOURS)], width=3)


def _lead(draw: ImageDraw.ImageDraw, place: int, frame_px: int, top: int, drop: int, width: int, level: int) -> None:
    """From frames `place` and `place + 1` of one strip to the ends of the next."""
    colour = _COLOURS[(level - 1) % len(_COLOURS)]
    left = _MARGIN + place * (frame_px + _GAP)
    right = left + 2 * frame_px + _GAP
    draw.rectangle((left, top, right - 1, top + 3), fill=colour)
    for begin, end in ((left, _MARGIN), (right - 1, _MARGIN + width - 1)):
        draw.line((begin, top + 4, end, top + drop + _LABEL - 4), fill=colour, width=1)


def _title(draw: ImageDraw.ImageDraw, place: tuple[int, int], name: str, prompts: str, level: int) -> None:
    end = place[0] + draw.textlength(name, _font(14))
    draw.rectangle((place[0], place[1], end + 4, place[1] + 20), fill=_PAPER)  # over the line that leads here
    draw.text(place, name, _COLOURS[level % len(_COLOURS)], _font(14))
    draw.text((end + 14, place[1] + 1), prompts, _PALE, _font(13))


def _name(window: Window) -> str:
    level = "global window" if window.level == 0 else f"level {window.level}, window {window.index}"
    return f"{level}: frames {window.first}, {window.first + window.stride}, {window.first + 2 * window.stride} …"


def _prompts_in_short(prompts: Sequence[str]) -> str:
    unique = list(dict.fromkeys(prompts))
    return f"{len(unique)} prompts" if len(unique) > 2 else " | ".join(unique)


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
