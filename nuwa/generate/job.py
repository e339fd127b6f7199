"""One video, from what was asked for to the finished file: checked first, made window by window, resumable."""

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from nuwa.generate.config import GenerateConfig, check_numbers
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
from nuwa.generate.long_video import Progress, VideoPlan, generate_frames
from nuwa.generate.pictures import Size
from nuwa.generate.pipeline import pick_device
from nuwa.generate.pipeline_folder import StoredPipeline, load_pipeline, stored_pipeline
from nuwa.generate.record import Record, describe, identity, is_done, write_record
from nuwa.generate.story import GivenImage, Story, frame_prompts, level_prompts, load_story
from nuwa.generate.video_files import check_output, format_of, write_video
from nuwa.generate.windows import Sampling, WindowSampler
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
    format_of(config.output)
    story = load_story(config.story)
    stored = stored_pipeline(config.model)
    fps = next(rate for rate in (config.fps, story.fps, stored.train_fps) if rate is not None)
    check_output(config.output, stored.height, stored.width, config.upscale, fps)
    frames = len(frame_prompts(story, fps, config.frames))
    depth = _depth(frames, stored.window_length, config.depth)
    sampling = _sampling(config, fps)
    sampling.check_levels(depth)
    prompts = level_prompts(story, fps, frames, depth)
    clips = _clips(config, story, stored, frames, depth, fps)
    record = describe(config, story, stored, sampling, prompts, clips)
    return Job(config, stored, sampling, prompts, clips, record)


def run(job: Job, on_progress: Callable[[Progress], None]) -> None:
    """Make the video. Stopped at any point, the same job goes on from the windows that are finished."""
    config, stored = job.config, job.stored
    pipe = load_pipeline(config.model, weights_sha256=stored.weights_sha256).to(pick_device(config.device))
    sampler = WindowSampler(pipe, job.sampling)  # refuses what it cannot walk before there is a folder or a cluster
    with _work_folder(config) as folder:
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
            write_video(config.output, frames, job.sampling.fps, config.upscale, work=folder)
        clean(config)  # while it is still held: nobody else has begun to use it


def clean(config: GenerateConfig) -> None:
    """Remove the finished windows of a video that is complete, unless they are to be kept."""
    if not config.keep_windows:
        shutil.rmtree(config.work_folder, ignore_errors=True)


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
        steps=config.steps if len(config.steps) > 1 else config.steps[0],
        guidance=config.guidance,
        guidance_last=config.guidance_last,
        sampler=config.sampler,
        seed=config.seed,
        batch=config.batch,
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


@contextmanager
def _work_folder(config: GenerateConfig) -> Iterator[Path]:
    """The folder of finished windows, held by this process alone; the hold ends with the process, however it ends."""
    folder = config.work_folder
    handle = _held(folder, config.output)
    try:
        yield folder
    finally:
        with suppress(OSError):  # windows are in it, or it went when the video was complete
            folder.rmdir()
        os.close(handle)


def _held(folder: Path, output: Path) -> int:
    """A handle of `folder`, made when it is not there, that holds it until it is closed."""
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            handle = os.open(folder, os.O_RDONLY)
        except OSError as error:
            raise NuwaError(f"{folder} cannot be written to ({error}); give another --output") from error
        _lock(handle, output)
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle), folder.stat()):
                return handle
        os.close(handle)  # who held it before has removed it with the video complete: another of the same name is made


def _lock(handle: int, output: Path) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(handle)
        raise NuwaError(f"another process is making {output}; wait for it or give another --output") from error
    except OSError:  # a file system without locks: nothing says that somebody else is at it
        return
