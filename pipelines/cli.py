"""One way to run a script: parse a frozen dataclass, print it with --dry-run, answer with an exit status."""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import tyro

from curation.config_error import CurationError
from nuwa.hierarchy import NuwaError

Config = TypeVar("Config")
STOPPED = 130
"""Exit status of what Ctrl-C has ended, as shells have it: 128 and the number of the signal."""


def run(
    main: Callable[[Config], None],
    config_type: type[Config],
    args: Sequence[str] | None = None,
    whole: Callable[[Config], object] = vars,
) -> int:
    """Parse `args` (default: the command line) into `config_type` and call `main` with it.

    With --dry-run print instead what `whole` makes of the config: everything that decides the result, as JSON.
    Returns the exit status: 0 done, 2 the user must change something (one line on stderr says what and how), 130 ended
    with Ctrl-C (one line too); anything else leaves with its traceback, which Python turns into status 1.
    """
    words = list(sys.argv[1:] if args is None else args)
    about = f"{config_type.__doc__}\n\nWith --dry-run it only prints its whole configuration."
    config = tyro.cli(config_type, args=[word for word in words if word != "--dry-run"], description=about)
    try:
        if "--dry-run" in words:
            print(json.dumps(whole(config), indent=2, default=_as_json))
        else:
            main(config)
    except KeyboardInterrupt:
        print("stopped; the same command goes on", file=sys.stderr)
        return STOPPED
    except (CurationError, NuwaError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


def _as_json(value: object) -> str:
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} cannot be printed as JSON")
