"""Decodes one video in this process, alone or with the whole analysis; called by benchmarks.one_pass and .memory.

python -m benchmarks.run_ours decode|demo|svd VIDEO → one line of JSON: what the call cost and found, and peak memory

`decode` is the floor: PyAV, one thread, every frame decoded and dropped. The others are `curation.analyse.decode_pass`
with the cuts, motion and frames of that profile. Importing is not counted.
"""

import json
import resource
import sys

import av

from benchmarks import measured
from curation import profiles
from curation.analyse import decode_pass


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


if __name__ == "__main__":
    what, path = sys.argv[1:]
    measured.call(lambda: decode(path) if what == "decode" else one_pass(path, what))
    peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({**measured.last(), "peak_bytes": peak_bytes}))
