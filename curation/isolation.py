"""A child process that runs one function call after another and can be killed: decoders crash and hang on
damaged input.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import threading
import time
from collections.abc import Callable
from multiprocessing import reduction
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any, Generic, TypeVar, cast

from curation.config_error import CurationError

R = TypeVar("R")

_PARENT_CHECK_S = 1.0
_START_ATTEMPTS = 3
_START_LIMIT_S = 120.0
_READY = "ready"


class WorkerDiedError(CurationError):
    """The child process crashed, was killed for memory, or did not answer in time."""


class WorkerStartError(CurationError):
    """The child process cannot be started at all: no fault of what it was to work on."""


class KillableWorker(Generic[R]):
    """Calls `function` in a child process; a call that kills the child, or outlasts the limit, raises and
    costs only itself.

    The child is started by the first call and by the first one after a death, and ends with its parent. `function` must
    be importable by name, its arguments and result picklable; exceptions it raises come through.
    """

    def __init__(self, function: Callable[..., R], time_limit_s: float, memory_limit_bytes: int) -> None:
        self._function, self._time_limit_s, self._memory_limit_bytes = function, time_limit_s, memory_limit_bytes
        self._process: SpawnProcess | None = None
        self._pipe: Connection | None = None

    def call(self, *arguments: Any, descriptor: int | None = None) -> R:
        """The result of `function(*arguments)`; with `descriptor`, an open file's number, the child is given the same
        file and `function` its number there as last argument.

        Raises:
            WorkerDiedError: no result, because the child ended or took longer than the limit.
            WorkerStartError: there is no child to ask.
        """
        pipe = self._running()
        try:
            pipe.send((arguments, descriptor is not None))
            if descriptor is not None:
                assert self._process is not None
                reduction.send_handle(pipe, descriptor, self._process.pid)
        except OSError as lost:
            raise WorkerDiedError(f"the decoder's process died (exit code {self.stop()}) between two calls") from lost
        if not pipe.poll(self._time_limit_s):
            self.stop()
            raise WorkerDiedError(
                f"no result within {self._time_limit_s:g} s: the decoder hangs, or raise time_limit_s, --retry-failed"
            )
        try:
            result, error = pipe.recv()
        except (EOFError, OSError) as lost:
            code = self.stop()
            raise WorkerDiedError(f"the decoder's process died (exit code {code}): leave this file out") from lost
        if error is not None:
            raise error
        return cast(R, result)

    def stop(self) -> int | None:
        """End the child; returns its exit code."""
        process, pipe, self._process, self._pipe = self._process, self._pipe, None, None
        if process is None or pipe is None:
            return None
        pipe.close()
        process.join(timeout=1.0)
        if process.is_alive():
            process.kill()
            process.join()
        return process.exitcode

    def _running(self) -> Connection:
        if self._process is not None and self._pipe is not None and self._process.is_alive():
            return self._pipe
        code = self.stop()
        for _ in range(_START_ATTEMPTS):
            pipe = self._start()
            if pipe is not None:
                return pipe
            code = self.stop()
        raise WorkerStartError(
            f"the decoding process does not start (exit code {code}): its messages say why; a script that starts one "
            "needs `if __name__ == '__main__':`, and the machine memory for it"
        )

    def _start(self) -> Connection | None:
        """The pipe to a new child, once that answers; null when it has died before."""
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        target = (theirs, self._function, self._memory_limit_bytes)
        self._process = context.Process(target=_serve, args=target, daemon=True)
        self._process.start()
        theirs.close()
        try:
            return self._pipe if self._pipe.poll(_START_LIMIT_S) and self._pipe.recv() == _READY else None
        except (EOFError, OSError):
            return None


def _serve(pipe: Connection, function: Callable[..., Any], memory_limit_bytes: int) -> None:
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    resource.setrlimit(resource.RLIMIT_AS, (memory_limit_bytes, memory_limit_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    pipe.send(_READY)
    while True:
        try:
            arguments, with_file = pipe.recv()
            arguments = (*arguments, reduction.recv_handle(pipe)) if with_file else arguments
        except EOFError:
            return
        answer: tuple[Any, Exception | None]
        try:
            answer = (function(*arguments), None)
        except (ValueError, OSError, MemoryError, RuntimeError) as error:
            answer = (None, error)
        pipe.send(answer)


def _end_with(parent: int) -> None:
    """End this process when its parent has gone, whatever it is doing: a hanging decoder never looks at
    the pipe.
    """
    while os.getppid() == parent:
        time.sleep(_PARENT_CHECK_S)
    os._exit(1)
