"""One job of encoding: what is missing, how large it is, and doing it."""

import shutil
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from nuwa.data.encode_plan import (
    LatentSize,
    ShardTask,
    WindowSpec,
    frame_spec,
    shard_tasks,
    stride_of_level,
    wanted_pieces,
    window_spec,
)
from nuwa.data.latents import LatentFolder, Piece
from nuwa.data.prompt_tokens import PromptFolder
from nuwa.data.run_hashes import RunHash, RunHashes
from nuwa.data.runs import Run, read_runs
from nuwa.data.shard_writer import PromptTask, Task, TaskWorker, Written
from nuwa.data.whole_files import LatentsError, remove_drafts
from nuwa.data.windows import WindowDataset
from nuwa.generate.held_folder import held_folder
from nuwa.generate.pipeline import NuwaXLPipeline
from nuwa.train.encode_config import EncodeConfig, check_config
from nuwa.train.encoders import LoadEncoder, PipelineEncoder, pipeline_of

PROMPTS_IN_FILE = 1024
SPARE_BYTES = 2**24
"""Room for what the files hold besides latents."""


@dataclass(frozen=True, kw_only=True)
class EncodeJob:
    """What there is to encode, and what is there. `wanted`: all pieces; `runs` by the hash of their file."""

    config: EncodeConfig
    spec: WindowSpec
    runs: dict[str, Run]
    wanted: tuple[Piece, ...]
    prompts: tuple[str, ...]
    tasks: tuple[Task, ...]
    missing_bytes: int
    wanted_bytes: int
    hashes: dict[str, RunHash]
    damaged: tuple[Path, ...]
    load: LoadEncoder

    @property
    def windows(self) -> int:
        """Windows and conditions that are missing."""
        return sum(task.num_windows for task in self.tasks if isinstance(task, ShardTask))

    @property
    def window_count(self) -> int:
        """Windows and conditions, those that are there too."""
        return sum(len(piece.firsts) for piece in self.wanted)


def prepare(config: EncodeConfig) -> EncodeJob:
    """Look at dataset, pipeline and folder; nothing is written. Raises NuwaError for what cannot be encoded."""
    check_config(config)
    runs = [replace(run, path=run.path.absolute()) for run in read_runs(config.dataset, config.where)]
    pipe = pipeline_of(config.model, config.stage, runs[0])
    spec = _spec(config, pipe)
    _check_long_enough(runs, spec)
    hashes = RunHashes(config.output).hashed(runs)
    sources = {run_id: hashed.sha256 for run_id, hashed in hashes.items()}
    encoder = PipelineEncoder(
        pipe, single_frames=config.single_frames, device=torch.device("cpu"), frames_at_once=config.frames_at_once
    )
    damaged: list[Path] = []
    wanted = tuple(wanted_pieces(runs, sources, spec))
    missing = list(LatentFolder(config.output, encoder.vae_hash, damaged).missing(wanted))
    prompts = _prompts(runs, config)
    new_prompts = PromptFolder(config.output, encoder.prompt_hash, damaged).missing(prompts)
    by_source = {sources[run.run_id]: run for run in runs}
    size = _latent_size(pipe, runs[0])
    prompt_bytes = encoder.tokens([""]).nbytes
    shards = shard_tasks(missing, by_source, size)
    return EncodeJob(
        config=config,
        spec=spec,
        runs=by_source,
        wanted=wanted,
        prompts=tuple(prompts),
        tasks=(*_prompt_tasks(new_prompts), *shards),
        missing_bytes=_bytes_of(missing, size) + prompt_bytes * len(new_prompts),
        wanted_bytes=_bytes_of(wanted, size) + prompt_bytes * len(prompts),
        hashes=hashes,
        damaged=tuple(damaged),
        load=LoadEncoder(
            config.model.absolute(),
            config.stage,
            runs[0],
            config.device,
            config.frames_at_once,
            (encoder.vae_hash, encoder.prompt_hash),
        ),
    )


def run(job: EncodeJob, on_done: Callable[[Written], None]) -> None:
    """Encode what is missing; stopped at any point, the same job goes on with the shards that are not there.

    Raises LatentsError when there is no room, when another process encodes into the folder, and, after all else is
    done, for run files that cannot be read.
    """
    folder = job.config.output
    _check_room(job)
    problems: list[str] = []
    with held_folder(folder, folder):
        remove_drafts(folder)
        for path in job.damaged:
            path.unlink(missing_ok=True)
        record = RunHashes(folder).keep(job.hashes)
        with closing(_do(job, record)) as results:
            for written in results:
                if written.hopeless:
                    raise LatentsError(written.error or "")
                problems += [written.error] if written.error else []
                on_done(written)
    if problems:
        raise LatentsError(f"{len(problems)} of {len(job.tasks)} parts are not encoded; the first: {problems[0]}")


def _do(job: EncodeJob, record: Path) -> Generator[Written, None, None]:
    """What became of each task, as they finish. `record` is a file in the folder, which tells it from others."""
    config = job.config
    if not job.tasks:  # no Ray for nothing
        return
    if config.engine == "local":
        worker = TaskWorker(job.load, config.output)
        yield from map(worker.do, job.tasks)
        return
    from nuwa.data.ray_encode import encode

    yield from encode(
        job.tasks,
        job.load,
        config.output,
        device=config.device,
        needs=[record, config.model, config.dataset],
        address=config.ray_address,
        num_cpus=config.num_cpus,
    )


def _spec(config: EncodeConfig, pipe: NuwaXLPipeline) -> WindowSpec:
    if config.single_frames:
        return frame_spec(config.hop)
    length = pipe.config.window_length if config.length is None else config.length
    at_levels = stride_of_level(config.levels, length, config.depth)
    if not at_levels:
        raise LatentsError(f"depth {config.depth} has no local levels; give a depth of at least 2, or --levels global")
    return window_spec(length, config.hop, at_levels, conditions=config.condition == "pixels")


def _check_long_enough(runs: Sequence[Run], spec: WindowSpec) -> None:
    """Raise DataError, as training would, for a stride that no run is long enough for."""
    WindowDataset(runs, length=spec.length, strides=[stride for stride, _ in spec.masks_at], hop=spec.hop)


def _prompts(runs: Sequence[Run], config: EncodeConfig) -> list[str]:
    """All prompts that training reads, the empty one too, which stands for one that is dropped."""
    prompts = {"", *(prompt for run in runs for prompt in run.prompts)}
    if config.captions == "sampled":
        prompts |= {caption for run in runs for captions in run.captions for caption in captions}
    return sorted(prompts)


def _prompt_tasks(prompts: Sequence[str]) -> Iterator[PromptTask]:
    for begin in range(0, len(prompts), PROMPTS_IN_FILE):
        yield PromptTask(tuple(prompts[begin : begin + PROMPTS_IN_FILE]))


def _latent_size(pipe: NuwaXLPipeline, run: Run) -> LatentSize:
    factor = pipe.vae.downsample_factor
    return LatentSize(pipe.vae.config.latent_channels, run.height // factor, run.width // factor)


def _bytes_of(pieces: Iterable[Piece], size: LatentSize) -> int:
    return sum(size.bytes_of(piece) for piece in pieces)


def _check_room(job: EncodeJob) -> None:
    """Raise LatentsError when the disk has less room than the latents need."""
    output = job.config.output.absolute()
    place = next(path for path in (output, *output.parents) if path.exists())
    free = shutil.disk_usage(place).free
    if job.tasks and free < job.missing_bytes + SPARE_BYTES:
        raise LatentsError(
            f"latents need {in_words(job.missing_bytes)}, and the disk of {place} has {in_words(free)} left; make "
            "room, give another --output, or fewer windows by a larger --hop"
        )


def in_words(num_bytes: int) -> str:
    """A size as people read it."""
    size, unit = float(num_bytes), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if size < 1000:
            break
        size, unit = size / 1000, larger
    return f"{size:.3g} {unit}"
