"""Input and output on an S3-compatible server: the same rows as on a local disk, one writer, verified, pruned."""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from pyarrow import fs

from curation import job
from curation.config import CurationConfig
from curation.dataset import open_dataset
from curation.lock import only_writer
from curation.manifest import OutputError
from curation.store import Store, forget_file_systems
from curation.verify import verify
from tests.curation.tables import KEYS, TIMINGS

pytestmark = pytest.mark.ray
BUCKET = "films-and-datasets"


@pytest.fixture(scope="module")
def server() -> Iterator[None]:
    """moto's server, found by every library through the environment, as any other than Amazon's own would be."""
    pytest.importorskip("moto.server")
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    settings = {"AWS_ENDPOINT_URL": url, "AWS_DEFAULT_REGION": "us-east-1"}
    settings |= {"AWS_ACCESS_KEY_ID": "nobody", "AWS_SECRET_ACCESS_KEY": "nothing"}
    before = dict(os.environ)
    os.environ.update(settings)
    command = [str(Path(sys.executable).with_name("moto_server")), "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait_for(url)
        forget_file_systems()
        fs.FileSystem.from_uri(f"s3://{BUCKET}?allow_bucket_creation=true")[0].create_dir(BUCKET)
        yield
    finally:
        process.kill()
        process.wait()
        os.environ.clear()
        os.environ.update(before)
        forget_file_systems()


def _wait_for(url: str) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            urllib.request.urlopen(url, timeout=1).close()
            return
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.2)


def upload(folder: Path, place: str) -> None:
    store = Store.at(place)
    for path in folder.iterdir():
        store.write(path.name, path.read_bytes())


def comparable(frame: pd.DataFrame, name: str) -> pd.DataFrame:
    """Without timings and without the places, which differ."""
    plain = frame.drop(columns=[column for column in (*TIMINGS, "source_uri", "error_message") if column in frame])
    keys = [key for key in KEYS[name] if key in plain] + [key for key in ("size_bytes", "status") if key in plain]
    return plain.sort_values(keys).reset_index(drop=True)


def test_the_same_dataset_as_on_a_disk(
    server: None, footage: Path, random_config: CurationConfig, tmp_path: Path
) -> None:
    from curation.pipeline import cluster

    place, films = f"s3://{BUCKET}/dataset", f"s3://{BUCKET}/films"
    upload(footage, films)
    with cluster(None, 2):
        summary = job.curate(films, place, random_config, job.Cluster())
        job.curate(str(footage), str(tmp_path / "out"), random_config, job.Cluster())
        assert job.curate(films, place, random_config, job.Cluster()) == summary
    assert "ok 2" in summary
    there, here = open_dataset(place), open_dataset(tmp_path / "out")
    for name in ("videos", "clips", "errors"):
        one, other = comparable(there.read(name), name), comparable(here.read(name), name)
        pd.testing.assert_frame_equal(one, other, check_exact=True)
    assert set(there.runs["run_id"]) == set(here.runs["run_id"])
    for run in there.runs.itertuples():
        with there.open(str(run.file_name)) as file:
            assert file.read() == (here.path / str(run.file_name)).read_bytes()
    assert verify(place) == []
    assert not Store.at(place).exists("manifest/lock")


def test_one_writer(server: None, footage: Path, random_config: CurationConfig) -> None:
    store = Store.at(f"s3://{BUCKET}/locked")
    with only_writer(store), pytest.raises(OutputError, match="another process"):
        job.curate(str(footage), store.root, random_config, job.Cluster())


def test_a_bucket_that_is_not_there(server: None, footage: Path, random_config: CurationConfig) -> None:
    with pytest.raises(ValueError, match=r"s3://no-such-bucket/x.* cannot be written"):
        job.curate(str(footage), "s3://no-such-bucket/x", random_config, job.Cluster())
