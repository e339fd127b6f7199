"""Where a Ray cluster is to be found, and whether anybody is there. No Ray here: importing it starts nothing."""

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
