"""One way to run a script: parse a frozen dataclass, print it with --dry-run, answer with an exit status."""

import dataclasses
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import tyro

from curation.config import CurationError
from nuwa.hierarchy import NuwaError

Config = TypeVar("Config")


def run(main: Callable[[Config], None], config_type: type[Config], args: Sequence[str] | None = None) -> int:
    """Parse `args` (default: the command line) into `config_type` and call `main` with it.

    Returns the exit status: 0 done, 2 the user must change something (one line on stderr says what and how);
    anything else leaves with its traceback, which Python turns into status 1.
    """
    words = list(sys.argv[1:] if args is None else args)
    dry_run = "--dry-run" in words
    config = tyro.cli(config_type, args=[word for word in words if word != "--dry-run"])
    if dry_run:
        print(json.dumps(dataclasses.asdict(config), indent=2, default=_as_json))  # type: ignore[call-overload]
        return 0
    try:
        main(config)
    except (CurationError, NuwaError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


def _as_json(value: object) -> str:
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} cannot be printed as JSON")
