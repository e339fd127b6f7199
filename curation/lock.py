"""One writer per dataset: a lock of the file system, or on an object store a lease that its holder keeps renewing."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from curation.manifest import LOCK, OutputError
from curation.store import Store, StoreError

LEASE_S = 60.0
"""A lease that was not renewed for so long belongs to a job that has died."""
SETTLE_S = 1.0
"""Two jobs that begin at the same moment both write the lease; after this time the later one has it."""


@contextlib.contextmanager
def only_writer(store: Store) -> Iterator[Callable[[], None]]:
    """Keep other processes from writing to the same dataset. Raises OutputError when one does already.

    What is yielded raises it when one does after all.
    """
    with _flock(store.folder / LOCK) if store.folder is not None else _lease(store) as still_ours:
        yield still_ours


@contextlib.contextmanager
def _flock(path: Path) -> Iterator[Callable[[], None]]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise _taken(str(path.parent.parent)) from error
        yield lambda: None


@contextlib.contextmanager
def _lease(store: Store) -> Iterator[Callable[[], None]]:
    """Object stores know no locks: the lease names its holder and the time until which it holds."""
    holder = f"{socket.gethostname()} {os.getpid()} {uuid.uuid4().hex[:8]}"
    if _held_by_other(store, holder):
        raise _taken(store.root)
    _renew(store, holder)
    time.sleep(SETTLE_S)
    if _held_by_other(store, holder):
        raise _taken(store.root)
    ended, lost = threading.Event(), threading.Event()

    def still_ours() -> None:
        if lost.is_set():
            raise _taken(store.root)

    keeper = threading.Thread(target=_keep, args=(store, holder, ended, lost), daemon=True)
    keeper.start()
    try:
        yield still_ours
    finally:
        ended.set()
        keeper.join()
        if not _held_by_other(store, holder):
            store.delete(LOCK)


def _keep(store: Store, holder: str, ended: threading.Event, lost: threading.Event) -> None:
    """Renew until the end; a lease that ran out meanwhile and has another holder is lost."""
    while not ended.wait(LEASE_S / 4):
        with contextlib.suppress(StoreError):  # the next renewal is early enough
            if _held_by_other(store, holder):
                lost.set()
                return
            _renew(store, holder)


def _renew(store: Store, holder: str) -> None:
    store.write(LOCK, json.dumps({"holder": holder, "until": time.time() + LEASE_S}).encode())


def _held_by_other(store: Store, holder: str) -> bool:
    lease = json.loads(store.read(LOCK) or b"{}")
    return bool(lease) and lease["holder"] != holder and lease["until"] > time.time()


def _taken(place: str) -> OutputError:
    return OutputError(f"another process is curating into {place}: wait for it or end it")
