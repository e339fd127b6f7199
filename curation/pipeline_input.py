"""What the pipeline is told of one input."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Todo:
    """One input to measure: URI, hash of its bytes, name of its record if it has one, stages that must run."""

    uri: str
    sha256: str
    record: str | None
    stale: tuple[str, ...]
