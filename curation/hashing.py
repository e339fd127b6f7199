"""Content hashes of inputs, null where the bytes cannot be read."""

from curation.store import StoreError
from curation.video import content_hash


def hash_or_none(uri: str) -> str | None:
    """SHA-256 (hex) of the bytes at `uri`; null where they cannot be read."""
    try:
        return content_hash(uri)[0]
    except (OSError, StoreError, ValueError):  # ValueError: a name no file can have
        return None
