"""Is a folder of latents what encoding anew would give? Every file is read, and a sample of windows encoded again."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from nuwa.data.encode_plan import ShardTask
from nuwa.data.latents import Half, LatentFolder, Piece
from nuwa.data.prompt_tokens import PromptFolder
from nuwa.data.shard_writer import PromptTask, shard_tensors
from nuwa.data.whole_files import LatentsError, check_whole
from nuwa.train.encode_job import EncodeJob

TOLERANCE = 0.01
"""What may lie between two encodings of a latent of unit variance: devices and batches round apart."""
_ANEW = "remove the folder and give the same command without --verify"


@dataclass(frozen=True)
class Verified:
    """Files that are whole, windows that were encoded again, and the largest difference to a mean that is stored."""

    files: int
    windows: int
    largest: float


def verify(job: EncodeJob) -> Verified:
    """Check every file, and a sample of windows against encoding them anew.

    Raises LatentsError for windows or prompts that are missing, damaged files, and latents that are other ones.
    """
    if job.tasks or job.damaged:
        raise LatentsError(f"{job.config.output} {_lacking(job)}; give the same command without --verify")
    vae_hash, prompt_hash = job.load.hashes
    stored = LatentFolder(job.config.output, vae_hash)
    prompts = PromptFolder(job.config.output, prompt_hash)
    for path in (*stored.shards, *prompts.files):
        check_whole(path)
    encoder, largest = job.load(), 0.0
    chosen = _spread(job.wanted, job.config.sample)
    for piece in chosen:
        tensors = shard_tensors(ShardTask((piece,), job.runs), encoder)
        largest = max(largest, *(_difference(piece, name, anew, stored) for name, anew in tensors.items()))
    for prompt in job.prompts[: job.config.sample]:
        known = prompts.read(prompt)
        if known is None or not np.allclose(known, encoder.tokens([prompt])[0], atol=1e-3, rtol=1e-3):
            raise LatentsError(f"tokens of prompt {prompt!r} are not those of this text encoder; {_ANEW}")
    return Verified(len(stored.shards) + len(prompts.files), len(chosen), largest)


def _lacking(job: EncodeJob) -> str:
    """What is missing, and the damaged files by name."""
    prompts = sum(len(task.prompts) for task in job.tasks if isinstance(task, PromptTask))
    counts = {"windows and conditions": (job.windows, job.window_count), "prompts": (prompts, len(job.prompts))}
    found = [f"lacks {missing} of {wanted} {what}" for what, (missing, wanted) in counts.items() if missing]
    if job.damaged:
        found.append(f"has damaged files: {', '.join(str(p.relative_to(job.config.output)) for p in job.damaged)}")
    return ", ".join(found)


def _difference(piece: Piece, name: str, anew: Half, stored: LatentFolder) -> float:
    """Largest difference of one window to what is stored. Raises LatentsError for more than rounding."""
    moment = name.split("/")[0]
    known = stored.read(piece.source, piece.firsts[0], piece.stride, piece.mask, moment)
    assert known is not None, "nothing is missing"
    now = anew[0].astype(np.float32)
    if not np.allclose(known, now, atol=TOLERANCE, rtol=TOLERANCE):
        raise LatentsError(
            f"{moment} of mask {piece.mask} at frame {piece.firsts[0]}, stride {piece.stride}, of run file "
            f"{piece.source[:16]} is {float(np.abs(known - now).max()):.3g} off what encoding it anew gives; {_ANEW}"
        )
    return float(np.abs(known - now).max()) if moment == "mean" else 0.0


def _spread(wanted: Sequence[Piece], count: int) -> list[Piece]:
    """Single windows, evenly spaced among all."""
    ends = np.cumsum([len(piece.firsts) for piece in wanted])
    chosen = []
    for place in np.linspace(0, ends[-1] - 1, min(count, int(ends[-1]))).astype(int):
        number = int(np.searchsorted(ends, place, side="right"))
        piece = wanted[number]
        first = piece.firsts[int(place - (ends[number - 1] if number else 0))]
        chosen.append(replace(piece, firsts=(first,)))
    return chosen
