"""The same video is the same file: encoding depends on the frames and on nothing that was in memory before."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

ENCODE = """
import sys
from pathlib import Path
import numpy as np
from nuwa.generate.video_files import write_video
draws = np.random.default_rng(0)
frames = np.cumsum(draws.integers(-2, 3, (40, {size}, {size}, 3)), axis=0).clip(-100, 100) + 128
write_video(Path(sys.argv[1]), (frame.astype(np.uint8) for frame in frames), 8.0, 1)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc fills fresh memory as MALLOC_PERTURB_ says")
@pytest.mark.parametrize("size", [32, 64])
def test_an_mp4_does_not_depend_on_what_memory_held_before(tmp_path: Path, size: int) -> None:
    """x264's macroblock tree reads memory it never wrote when a frame is a few macroblocks wide."""
    hashes = []
    for fill in ("1", "170", "255"):
        path = tmp_path / f"{fill}.mp4"
        environment = os.environ | {"MALLOC_PERTURB_": fill}
        subprocess.run([sys.executable, "-c", ENCODE.format(size=size), str(path)], env=environment, check=True)
        hashes.append(hashlib.sha256(path.read_bytes()).hexdigest())
    assert len(set(hashes)) == 1
