"""A cluster that asks for a token: with it workers run, without it one line says so."""

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from nuwa.generate.pipeline_folder import save_pipeline
from tests.nuwa import stack

pytestmark = [pytest.mark.ray, pytest.mark.slow]  # a head node starts, and two programs join it

CLIENT = """
import sys
from contextlib import closing
from nuwa.generate.long_video import frame_plan, generate_latents
from nuwa.generate.ray_windows import RayExecutor
from nuwa.generate.windows import Sampling
from nuwa.hierarchy import NuwaError

model, address = sys.argv[1:]
try:
    with closing(RayExecutor(model, Sampling(steps=2), 1, address=address)) as executor:
        print(tuple(generate_latents(frame_plan(["a red star"] * 9, 5), executor).shape))
except NuwaError as error:
    print("NuwaError:", error)
"""


@dataclass(frozen=True)
class Head:
    address: str
    env: dict[str, str]


@pytest.fixture
def head() -> Iterator[Head]:
    """`ray start --head` with a token, in a process group of its own."""
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))  # sockets allow short paths only
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    env |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "HOME": str(folder)}
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    command = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--num-cpus=1"]
    command += [f"--port={port}", f"--temp-dir={folder}", "--include-dashboard=false", "--disable-usage-stats"]
    with (folder / "head.log").open("wb") as log:
        process = subprocess.Popen(command, env=env, stdout=log, stderr=log, start_new_session=True)
    try:
        yield Head(f"127.0.0.1:{port}", env)
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(20)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def join(head: Head, model: Path, env: dict[str, str]) -> str:
    """What a program says that joins the cluster; it tries until the head is up."""
    command = [sys.executable, "-c", CLIENT, str(model), head.address]
    root = Path(__file__).resolve().parents[2]
    for _ in range(20):
        done = subprocess.run(command, env=env, cwd=root, capture_output=True, text=True, timeout=240, check=False)
        if "refused" not in done.stdout:
            break
    return done.stdout + done.stderr


def test_the_token_decides(head: Head, tmp_path: Path) -> None:
    save_pipeline(stack.build(), tmp_path / "model")
    assert "(4, 9, 8, 8)" in join(head, tmp_path / "model", head.env)
    wrong = {**head.env, "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    none = {name: value for name, value in head.env.items() if not name.startswith("RAY_AUTH")}
    for env in (wrong, {**none, "HOME": str(tmp_path)}):
        said = join(head, tmp_path / "model", env)
        (line,) = [line for line in said.splitlines() if line.startswith("NuwaError:")]
        assert f"no Ray cluster at {head.address}" in line
        assert "token" in line
