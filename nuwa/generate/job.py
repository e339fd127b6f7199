"""One video, from what was asked for to the finished file: checked first, made window by window, resumable."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nuwa.generate.config import GenerateConfig, check_numbers, check_options
from nuwa.generate.executors import Executor, LocalExecutor
from nuwa.generate.finished_windows import FinishedWindows
from nuwa.generate.given_frames import (
    GivenClip,
    check_clips,
    encode_clips,
    image_clips,
    storyboard_clips,
    video_clip,
)
from nuwa.generate.held_folder import held_folder
from nuwa.generate.large_video import Enlarger
from nuwa.generate.long_video import Progress, VideoPlan, generate_frames
from nuwa.generate.pictures import Size
from nuwa.generate.pipeline import pick_device
from nuwa.generate.pipeline_folder import StoredPipeline, load_pipeline, stored_pipeline
from nuwa.generate.record import Record, describe, enlarged_identity, identity, is_done, write_record
from nuwa.generate.stored_ssr import Ssr, asked_ssr
from nuwa.generate.story import GivenImage, Story, frame_prompts, level_prompts, load_story, prompt_story
from nuwa.generate.video_files import check_output, format_of, write_video
from nuwa.generate.windows import Sampling, WindowSampler, per_level
from nuwa.hierarchy import NuwaError, depth_for, plan, strides

_LARGEST_STRIDE = 2**31
"""Frames between neighbours that a denoiser can be told."""


@dataclass(frozen=True)
class Job:
    """All that one video is made from, checked; `record` is what the JSON beside it will say."""

    config: GenerateConfig
    stored: StoredPipeline
    sampling: Sampling
    prompts: tuple[tuple[str, ...], ...]
    clips: tuple[GivenClip, ...]
    ssr: Ssr | None
    record: Record

    @property
    def num_frames(self) -> int:
        """Frames of the finished video."""
        return len(self.prompts[-1])

    def is_done(self) -> bool:
        """True when the output is there and shows what was asked for. NuwaError when something else is there."""
        return is_done(self.config.output, self.record)


def prepare(config: GenerateConfig) -> Job:
    """Read and check everything but the weights, cheapest first. NuwaError, one line, for whatever cannot be made."""
    check_numbers(config)
    check_options(config, one_pass=False)
    format_of(config.output)
    stored = stored_pipeline(config.model)
    story, fps = told_story(config, stored)
    ssr = asked_ssr(config, fps)
    check_frames(config, stored, ssr, fps)
    frames = len(frame_prompts(story, fps, config.frames))
    depth = _depth(frames, stored.window_length, config.depth)
    sampling = _sampling(config, fps)
    sampling.check_levels(depth)
    prompts = level_prompts(story, fps, frames, depth)
    clips = _clips(config, story, stored, frames, depth, fps)
    record = describe(config, story, stored, sampling, prompts, clips, None if ssr is None else ssr.describe())
    return Job(config, stored, sampling, prompts, clips, ssr, record)


def run(job: Job, on_progress: Callable[[Progress], None]) -> None:
    """Make the video. Stopped at any point, the same job goes on from the windows that are finished."""
    config, stored = job.config, job.stored
    pipe = load_pipeline(config.model, weights_sha256=stored.weights_sha256).to(pick_device(config.device))
    sampler = WindowSampler(pipe, job.sampling)  # refuses what it cannot walk before there is a folder or a cluster
    enlarger = None if job.ssr is None else job.ssr.load(pick_device(config.device))
    with held_folder(config.work_folder, config.output) as folder:
        if job.is_done():  # another process has made it since this one looked
            clean(config)
            return
        keep = FinishedWindows(folder, identity(job.record))
        write_record(config.output, job.record)
        given = encode_clips(pipe, job.clips, config.tile_px)
        video = VideoPlan(job.prompts, stored.window_length, len(job.prompts), given)
        with (
            closing(_executor(job, sampler)) as executor,
            closing(generate_frames(video, executor, keep=keep, on_progress=on_progress)) as frames,
        ):
            write_frames(config, frames, job.prompts[-1], job.sampling.fps, enlarger, folder, job.record)
        clean(config)  # while it is still held: nobody else has begun to use it


def clean(config: GenerateConfig) -> None:
    """Remove the finished windows of a video that is complete, unless they are to be kept."""
    if not config.keep_windows:
        shutil.rmtree(config.work_folder, ignore_errors=True)


def told_story(config: GenerateConfig, stored: StoredPipeline) -> tuple[Story, float]:
    """The story, or the one prompt as one, and the frame rate: that of the options, the story or the model."""
    if config.story is not None:
        story = load_story(config.story)
        return story, next(rate for rate in (config.fps, story.fps, stored.train_fps) if rate is not None)
    fps = stored.train_fps if config.fps is None else config.fps
    if not fps > 0:
        raise NuwaError(f"fps is {fps}; it must be a number above 0")
    frames = stored.window_length if config.frames is None else config.frames
    return prompt_story(config.prompt or "", frames, fps), fps


def check_frames(config: GenerateConfig, stored: StoredPipeline, ssr: Ssr | None, fps: float) -> None:
    """Raise NuwaError when frames of the model's size, enlarged as asked for, cannot be written."""
    if ssr is None:
        check_output(config.output, stored.height, stored.width, config.upscale, fps)
    else:
        scale = ssr.enlarging.scale
        ssr.check_size(stored.height, stored.width)
        check_output(config.output, stored.height * scale, stored.width * scale, 1, fps)


def write_frames(
    config: GenerateConfig,
    frames: Iterator[np.ndarray],
    prompts: Sequence[str],
    fps: float,
    enlarger: Enlarger | None,
    folder: Path,
    record: Record,
) -> None:
    """Write small frames as they are or made larger; finished segments of large ones are kept in `folder`."""
    if enlarger is None:
        write_video(config.output, frames, fps, config.upscale, work=folder)
        return
    keep = FinishedWindows(folder / "segments", enlarged_identity(record))
    write_video(config.output, enlarger.frames(frames, prompts, keep), fps, work=folder)


def _depth(frames: int, length: int, asked: int | None) -> int:
    """Number of levels. NuwaError for one that cannot reach the length, and for one far beyond it."""
    depth = len(plan(frames, length, asked))
    if strides(length, depth)[0] > _LARGEST_STRIDE:
        raise NuwaError(
            f"depth {depth} puts keyframes {strides(length, depth)[0]:.0e} frames apart; "
            f"{frames} frames need a depth of {depth_for(frames, length)}"
        )
    return depth


def _sampling(config: GenerateConfig, fps: float) -> Sampling:
    return Sampling(
        steps=per_level(config.steps),
        guidance=per_level(config.guidance),
        guidance_last=config.guidance_last,
        sampler=config.sampler,
        seed=config.seed,
        batch=8 if config.batch is None else config.batch,
        fps=fps,
        motion_score=config.motion_score,
        condition=config.condition,
        tile_px=config.tile_px,
    )


def _clips(
    config: GenerateConfig, story: Story, stored: StoredPipeline, frames: int, depth: int, fps: float
) -> tuple[GivenClip, ...]:
    """Everything that is given, from the story and from the options, checked against each other."""
    size = Size(stored.height, stored.width, config.fit)
    first = () if config.first_frame is None else (GivenImage(config.first_frame, frame=0),)
    clips = image_clips([*first, *story.given], fps, size)
    if config.storyboard is not None:
        clips += storyboard_clips(config.storyboard, frames, stored.window_length, depth, size)
    if config.extend is not None:
        clips.append(video_clip(config.extend, frames, fps, size))
    check_clips(clips, frames)
    return tuple(sorted(clips, key=lambda clip: clip.first))


def _executor(job: Job, sampler: WindowSampler) -> Executor:
    """The device of this process, or Ray actors where several workers or a cluster are asked for."""
    config = job.config
    if config.workers == 1 and config.ray_address is None:
        return LocalExecutor(sampler)
    from nuwa.generate.ray_windows import RayExecutor  # Ray only where it is needed

    return RayExecutor(
        config.model,
        job.sampling,
        config.workers,
        address=config.ray_address,
        device=config.device,
        weights_sha256=job.stored.weights_sha256,
    )
