"""One writer at a time, on folders and on stores without locks."""

import json
import time
from pathlib import Path

import pytest

from curation import lock
from curation.manifest import LOCK, OutputError
from curation.store import Store


@pytest.mark.parametrize("scheme", ["", "memory:/"])
def test_the_second_is_refused_and_the_next_is_not(
    tmp_path: Path, scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "SETTLE_S", 0.01)
    store = Store.at(f"{scheme}{tmp_path}/data")
    with lock.only_writer(store), pytest.raises(OutputError, match="another process"), lock.only_writer(store):
        pass
    with lock.only_writer(store):
        pass


def test_a_lease_nobody_renews_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "SETTLE_S", 0.01)
    store = Store.at(f"memory:/{tmp_path}")
    for until, held in ((time.time() + 50, True), (time.time() - 1, False)):
        store.write(LOCK, json.dumps({"holder": "gone", "until": until}).encode())
        if held:
            with pytest.raises(OutputError), lock.only_writer(store):
                pass
        else:
            with lock.only_writer(store):
                pass


def test_a_holder_that_lost_its_lease_stops_and_leaves_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "SETTLE_S", 0.01)
    monkeypatch.setattr(lock, "LEASE_S", 0.2)
    store = Store.at(f"memory:/{tmp_path}")
    with lock.only_writer(store) as still_ours:
        still_ours()
        store.write(LOCK, json.dumps({"holder": "another", "until": time.time() + 50}).encode())
        time.sleep(0.3)
        with pytest.raises(OutputError, match="another process"):
            still_ours()
    assert json.loads(store.read(LOCK) or b"")["holder"] == "another"


def test_the_holder_renews_its_lease(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "SETTLE_S", 0.01)
    monkeypatch.setattr(lock, "LEASE_S", 0.2)
    store = Store.at(f"memory:/{tmp_path}")
    with lock.only_writer(store):
        first = json.loads(store.read(LOCK) or b"")["until"]
        time.sleep(0.3)
        assert json.loads(store.read(LOCK) or b"")["until"] > first
    assert store.read(LOCK) is None
