"""One clip made in one pass, from what was asked for to the finished file: checked first, resumable after sampling."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch

from nuwa.generate.clip_options import check_pictures, check_windows
from nuwa.generate.config import GenerateConfig, check_numbers, check_options
from nuwa.generate.finished_windows import FinishedWindows
from nuwa.generate.held_folder import held_folder
from nuwa.generate.job import check_frames, clean, told_story, write_frames
from nuwa.generate.known_pixels import KnownPixels
from nuwa.generate.long_video import Progress
from nuwa.generate.modes import AS_THE_VIDEO, Given, Source, read_given
from nuwa.generate.one_pass import ClipSampler, ClipSampling, padded_length
from nuwa.generate.pictures import Size
from nuwa.generate.pipeline import pick_device
from nuwa.generate.pipeline_folder import StoredPipeline
from nuwa.generate.record import Record, identity, is_done, origin, surroundings, timed, write_record
from nuwa.generate.stored_ssr import Ssr, asked_ssr
from nuwa.generate.story import Story, frame_prompts
from nuwa.generate.stunet_pipeline import StunetPipeline, load_stunet, stored_stunet
from nuwa.generate.style_folder import Style, load_style, stored_style
from nuwa.generate.video_files import format_of
from nuwa.generate.windows import WindowResult
from nuwa.hierarchy import NuwaError, Window
from nuwa.models.style import styled

OnProgress = Callable[[Progress], None]
_CLIP = Window(0, 0, 0, 1)
"""The whole clip, as the folder of finished windows keeps it."""
_HELD_PER_PIXEL = 4 * 4 * 3
"""Bytes: known video, what is held, noise and walk, three colours in float32. More is held in fact, never less."""


@dataclass(frozen=True)
class ClipJob:
    """All that one clip is made from, checked; `record` is what the JSON beside it will say."""

    config: GenerateConfig
    stored: StoredPipeline
    sampling: ClipSampling
    prompts: tuple[str, ...]
    given: Given
    style: Style | None
    ssr: Ssr | None
    record: Record

    @property
    def num_frames(self) -> int:
        """Frames of the finished clip."""
        return len(self.prompts)

    def is_done(self) -> bool:
        """True when the output is there and shows what was asked for. NuwaError when something else is there."""
        return is_done(self.config.output, self.record)


def prepare(config: GenerateConfig) -> ClipJob:
    """Read and check everything but the weights, cheapest first. NuwaError, one line, for whatever cannot be made."""
    check_numbers(config)
    check_options(config, one_pass=True)
    format_of(config.output)
    check_pictures(config)
    source = Source(mode=config.mode, image=config.image, video=config.video, mask=config.mask, place=config.place)
    stored = stored_stunet(config.model)
    story, fps = told_story(config, stored)
    _check_story(story)
    ssr = asked_ssr(config, fps)
    check_frames(config, stored, ssr, fps)
    sampling = _sampling(config, fps)
    given = _given(config, source, story, stored, fps)
    check_windows(config, given.num_frames, stored.window_length)
    prompts = tuple(frame_prompts(story, fps, given.num_frames))
    style = None if config.style is None else stored_style(config.style, config.style_strength)
    record = _describe(config, story, stored, sampling, prompts, given, style, ssr)
    return ClipJob(config, stored, sampling, prompts, given, style, ssr, record)


def run(job: ClipJob, on_progress: OnProgress) -> str:
    """Make the clip; returns a line that says how. Stopped after sampling, the same job goes on from there."""
    config = job.config
    device = pick_device(config.device)
    pipe = load_stunet(config.model, weights_sha256=job.stored.weights_sha256).to(device)
    sampler = ClipSampler(pipe, job.sampling)  # refuses what it cannot walk before there is a folder
    enlarger = None if job.ssr is None else job.ssr.load(device)
    with _styled(job, pipe), held_folder(config.work_folder, config.output) as folder:
        if job.is_done():  # another process has made it since this one looked
            clean(config)
            return f"{config.output} is there already"
        keep = FinishedWindows(folder, identity(job.record))
        write_record(config.output, job.record)
        told = _Told(job, on_progress)
        latents = _latents(job, sampler, keep, told)
        made = padded_length(job.num_frames, pipe.stunet.temporal_factor)
        frames = told.counted(_recorded(job, sampler.frames(latents), made))
        write_frames(config, frames, job.prompts, job.sampling.fps, enlarger, folder, job.record)
        clean(config)
    return _summary(job, made, pipe.stunet.temporal_factor)


def _check_story(story: Story) -> None:
    """Raise NuwaError for what a story may say to NUWA-XL only."""
    if story.given:
        raise NuwaError(
            f"the story gives an image, {story.given[0].image}, which a clip in one pass does not read; leave `given` "
            "out of the story and ask for --mode image --image FILE"
        )
    for number, scene in enumerate(story.scenes, 1):
        if scene.level_prompts:
            raise NuwaError(
                f"scene {number} of the story has `prompts` for levels {sorted(scene.level_prompts)}, but a clip has "
                "one level; leave them out, or use NUWA-XL"
            )


def _given(config: GenerateConfig, source: Source, story: Story, stored: StoredPipeline, fps: float) -> Given:
    """Known pixels, and with them the length of the clip. NuwaError for one that no memory here holds.

    Where the video decides the length, not the story, it is read no further than memory holds.
    """
    default = len(frame_prompts(story, fps, config.frames))
    per_frame = stored.height * stored.width * _HELD_PER_PIXEL
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    as_the_video = config.frames is None and config.mode in AS_THE_VIDEO
    if default * per_frame > memory and not as_the_video:
        raise NuwaError(
            f"a clip of {default} frames of {stored.width}×{stored.height} px takes more than "
            f"{default * per_frame / 2**30:.0f} GiB in one pass, and this machine has {memory / 2**30:.0f}; "
            "ask for fewer --frames, or use NUWA-XL"
        )
    size = Size(stored.height, stored.width, config.fit)
    return read_given(source, config.frames, default, fps, size, memory // per_frame)


def _sampling(config: GenerateConfig, fps: float) -> ClipSampling:
    for name in ("steps", "guidance"):
        numbers = getattr(config, name)
        if len(numbers) != 1:
            raise NuwaError(
                f"--{name} has {len(numbers)} numbers, one per level; a clip is made at one level: give one"
            )
    return ClipSampling(
        steps=config.steps[0],
        guidance=config.guidance[0],
        guidance_last=config.guidance_last,
        sampler=config.sampler,
        seed=config.seed,
        batch=1 if config.batch is None else config.batch,
        fps=fps,
        motion_score=config.motion_score,
        tile_px=config.tile_px,
        overlap=config.overlap,
    )


def _describe(
    config: GenerateConfig,
    story: Story,
    stored: StoredPipeline,
    sampling: ClipSampling,
    prompts: tuple[str, ...],
    given: Given,
    style: Style | None,
    ssr: Ssr | None,
) -> Record:
    """The record: what decides the clip, under the names that a video of NUWA-XL has them."""
    return {
        **origin(config, story, stored, sampling),
        "num_frames": len(prompts),
        "depth": 1,
        "mode": config.mode,
        "put_back": config.put_back,
        **timed([prompts], sampling.fps),
        "given": list(given.inputs),
        "style": None if style is None else style.describe(),
        "super_resolution": None if ssr is None else ssr.describe(),
        **surroundings(config),
    }


def _styled(job: ClipJob, pipe: StunetPipeline) -> AbstractContextManager[object]:
    """The network of clips in the style that is asked for. NuwaError for a style of another architecture."""
    style = job.style
    return nullcontext() if style is None else styled(pipe.stunet, load_style(style), style.strength)


def _latents(job: ClipJob, sampler: ClipSampler, keep: FinishedWindows, told: "_Told") -> torch.Tensor:
    """What the network makes of the clip (c t h w): that of an earlier start, or sampled now and kept."""
    if keep.windows([_CLIP]):
        return keep.read(_CLIP).latents
    latents = sampler.sample(job.prompts, job.given.known, told.step)
    keep.write(_CLIP, WindowResult(latents, None))
    return latents


def _recorded(job: ClipJob, frames: Iterator[np.ndarray], made: int) -> Iterator[np.ndarray]:
    """Pass on the frames, known pixels put back where that is asked for.

    What they say of themselves is in the record before the last one goes on: a file that is there has a whole record,
    whenever the process is killed; a whole record may still lack its file.
    """
    known = KnownPixels(job.given.known, job.config.put_back)
    for number, frame in enumerate(known.passed(frames), 1):
        if number == job.num_frames:
            found = {"made_frames": made, "known_pixels": known.describe()}
            write_record(job.config.output, {**job.record, **found})
        yield frame


class _Told:
    """Tells of steps and frames, with an estimate of the time that the steps still take."""

    def __init__(self, job: ClipJob, on_progress: OnProgress) -> None:
        self._on_progress, self._frames = on_progress, job.num_frames
        self._steps = self._done = job.sampling.steps_at(0)
        self._started, self._frames_done = time.monotonic(), 0

    def step(self, done: int, steps: int) -> None:
        """After a sampler step."""
        self._done, self._steps = done, steps
        self._tell((time.monotonic() - self._started) / done * (steps - done))

    def counted(self, frames: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
        """Pass on the frames, and tell of them."""
        self._done = self._steps
        for frame in frames:
            self._frames_done += 1
            yield frame
            self._tell(0.0 if self._frames_done == self._frames else None)

    def _tell(self, seconds_left: float | None) -> None:
        self._on_progress(
            Progress(self._done, self._steps, self._frames_done, self._frames, seconds_left, unit="steps")
        )


def _summary(job: ClipJob, made: int, factor: int) -> str:
    """What was made; where it was padded, the line says so."""
    frames, mode = job.num_frames, job.config.mode
    padding = "" if made == frames else f"; the network made {made}, a multiple of {factor}; the rest is not shown"
    return f"{job.config.output}: {frames} frames by one pass, mode {mode}{padding}"
