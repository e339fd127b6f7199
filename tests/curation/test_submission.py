"""`ray job submit --working-dir .` to a real head of this machine, with token authentication on."""

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest

from curation.config import CurationConfig
from curation.config_json import to_json

pytestmark = pytest.mark.ray

ROOT = Path(__file__).resolve().parents[2]
RAY = str(Path(sys.executable).with_name("ray"))


@dataclass(frozen=True)
class Head:
    """A running head: its job server, the environment a client needs, and its folder."""

    address: str
    env: dict[str, str]
    folder: Path


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    """`ray start --head` in a process group of its own, so that no other Ray of this machine is touched."""
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))  # sockets allow short paths only
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    env |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_USAGE_STATS_ENABLED": "0"}
    env["PATH"] = f"{Path(sys.executable).parent}:{env['PATH']}"
    names = ("port", "dashboard-port", "ray-client-server-port", "dashboard-agent-listen-port")
    ports = {name: free_port() for name in names}
    command = [RAY, "start", "--head", "--block", "--num-cpus=2", f"--temp-dir={folder}"]
    command += ["--object-store-memory=200000000", *(f"--{name}={port}" for name, port in ports.items())]
    with (folder / "head.log").open("wb") as log:
        process = subprocess.Popen(command, env=env, stdout=log, stderr=log, start_new_session=True)
    try:
        yield Head(f"http://127.0.0.1:{ports['dashboard-port']}", env, folder)
    finally:
        end(process)
        shutil.rmtree(folder, ignore_errors=True)


def end(process: subprocess.Popen[bytes]) -> None:
    """Ask the head to end its processes, then make sure: none may outlive the test."""
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(20)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def submit(head: Head, *words: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    command = [RAY, "job", "submit", "--address", head.address, "--working-dir", ".", "--", *words]
    return subprocess.run(command, env=env or head.env, cwd=ROOT, capture_output=True, text=True, check=False)


def wait_until_up(head: Head) -> None:
    """The job server answers some seconds after the head has started; to a request without token, by refusing it."""
    deadline = time.monotonic() + 180
    while not answers(f"{head.address}/api/version"):
        assert time.monotonic() < deadline, (head.folder / "head.log").read_text()
        time.sleep(0.5)


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False


def test_submitted_job_makes_the_dataset(
    head: Head, footage: Path, random_config: CurationConfig, tmp_path: Path
) -> None:
    profile, out = tmp_path / "profile.json", tmp_path / "out"
    profile.write_text(to_json(random_config))
    wait_until_up(head)
    words = ["python", "-m", "pipelines.curate", "--input", str(footage), "--output", str(out)]
    words += ["--profile", str(profile)]
    done = submit(head, *words)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ok 2" in done.stdout
    assert sorted(pd.read_parquet(out / "videos")["status"]) == ["duplicate", "failed", "ok", "ok"]
    assert len(pd.read_parquet(out / "runs")) == 2

    (package,) = head.folder.glob("session_2*/runtime_resources/working_dir_files/_ray_pkg_*/")
    travelled = {path.name for path in package.iterdir()}
    assert {"curation", "pipelines", "pyproject.toml"} <= travelled
    assert not travelled & {".venv", ".git", "runs"}

    stranger = {name: value for name, value in head.env.items() if name != "RAY_AUTH_TOKEN"} | {"HOME": str(tmp_path)}
    assert submit(head, *words, env=stranger).returncode != 0
