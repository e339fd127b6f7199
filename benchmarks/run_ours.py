"""Decodes one video in this process, alone or with the whole analysis; called by benchmarks.one_pass and .memory.

python -m benchmarks.run_ours decode|demo|svd|worker VIDEO → one line of JSON: what the call cost and found, peak memory

`decode` is the floor: PyAV, one thread, every frame decoded and dropped. The others are `curation.analyse.decode_pass`
with the cuts, motion and frames of that profile. `worker` is what a Ray worker does with the video: the first operator
of the pipeline, which has a child of its own decode. Importing is not counted.
"""

import json
import os
import re
import resource
import sys
from collections.abc import Callable
from pathlib import Path

import av

from benchmarks import measured
from benchmarks.plain_loop import INPUT
from benchmarks.processes import Process, descendants
from curation import profiles
from curation.analyse import decode_pass
from curation.manifest import rows_to_table
from curation.operators import analyse
from curation.stage_graph import GRAPH
from curation.store import Store


def decode(video: str) -> int:
    """Number of frames."""
    with av.open(video) as container:
        stream = container.streams.best("video")
        stream.codec_context.thread_count = 1
        return sum(1 for _ in container.decode(stream))


def one_pass(video: str, profile: str) -> dict[str, object]:
    """Clips found, kinds of their starts and their largest motion score."""
    analysis = decode_pass({"source_uri": video, "source_sha256": "0" * 64}, profiles.profile(profile))
    if analysis.video["status"] != "ok":
        raise RuntimeError(str(analysis.video["error_message"]))
    kinds = [str(clip.row["cut_in"]) for clip in analysis.clips]
    return {"clips": len(kinds), **{kind: kinds.count(kind) for kind in sorted(set(kinds))}}


def worker(video: str) -> dict[str, int]:
    """Clips handed on block by block, and the peak memory of the decoding child."""
    config = profiles.demo()
    batch = rows_to_table([{"uri": video, "stale": list(GRAPH)}], INPUT)
    rows = sum(block.num_rows for block in analyse(batch, config, 1, Store.at("/nonexistent")))
    return {"clips": rows - 1, "decoder_peak_bytes": max(map(peak_bytes, descendants(os.getpid())))}


def peak_bytes(process: Process) -> int:
    """Largest resident size so far of a process that is alive."""
    found = re.search(r"^VmHWM:\s+(\d+) kB$", Path(f"/proc/{process.pid}/status").read_text(), re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


CALLS: dict[str, Callable[[str], object]] = {
    "decode": decode,
    "demo": lambda video: one_pass(video, "demo"),
    "svd": lambda video: one_pass(video, "svd"),
    "worker": worker,
}

if __name__ == "__main__":
    what, path = sys.argv[1:]
    measured.call(lambda: CALLS[what](path))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({**measured.last(), "peak_bytes": peak}))
