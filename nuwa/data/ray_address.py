"""Where a Ray cluster is to be found, whether anybody is there, and joining it. Importing this loads no Ray."""

import logging
import os
import socket

KNOCK_S = 10.0
"""How long a cluster may take to answer."""


def cluster_address(asked: str | None) -> str | None:
    """The cluster to join: the one asked for, else that of RAY_ADDRESS; None is a new cluster of this machine.

    Left to itself Ray would also join whatever cluster was last started on this machine.
    """
    return asked or os.environ.get("RAY_ADDRESS") or None


def knock(address: str) -> None:
    """Raise OSError when nobody listens at host:port: Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=KNOCK_S).close()


class NoClusterError(Exception):
    """Ray did not start; says why in one line. Whoever asked for it tells the user what to do."""


def start(address: str | None, num_cpus: int | None = None) -> None:
    """Join the cluster at `address`, or start one of `num_cpus` here without the processes that nothing here needs.

    Raises NoClusterError when nobody is there, when it refuses, and when this machine is too busy.
    """
    import ray
    from ray.exceptions import RayError

    settings = {} if address else {"include_dashboard": False, "num_cpus": num_cpus}
    try:
        if address:
            knock(address)
        ray.init(address=address or "local", log_to_driver=False, logging_level=logging.ERROR, **settings)
    except Exception as error:  # a machine that is too busy for Ray's own patience is a bare Exception
        if not isinstance(error, OSError | ValueError | RuntimeError | RayError) and type(error) is not Exception:
            raise
        raise NoClusterError(first_line(error)) from error


def first_line(error: BaseException) -> str:
    """What an error says, as part of a line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
