"""RESULTS.md: one section per benchmark between markers, so that running one again replaces only its own tables."""

import platform
import re
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

RESULTS = Path(__file__).resolve().parent / "RESULTS.md"
REPOSITORY = RESULTS.parent.parent
TITLE = """# Results

Every section states when, where, of which commit and by which command it was measured. Ratios travel between machines,
seconds do not.
"""
PACKAGES = ("av", "opencv-python-headless", "scenedetect-headless", "numpy", "pyarrow", "ray", "torch")


def write_section(
    name: str, title: str, command: str, lines: Sequence[str], path: Path = RESULTS, device: str = "cpu"
) -> None:
    """Replace section `name` of the file, or append it. `command` is what to type to measure it again.

    device: `cuda` where the section was measured on the GPU of this machine, which is then named
    """
    text = path.read_text("utf-8") if path.is_file() else TITLE
    where = conditions(command, device)
    body = "\n".join([f"<!-- {name} -->", f"## {title}", "", *where, "", *lines, f"<!-- /{name} -->"])
    marked = re.compile(f"<!-- {re.escape(name)} -->.*?<!-- /{re.escape(name)} -->", re.DOTALL)
    text = marked.sub(lambda _: body, text) if marked.search(text) else f"{text.rstrip()}\n\n{body}\n"
    temporary = path.with_name(f"_{path.name}")
    temporary.write_text(text, "utf-8")
    temporary.replace(path)


def conditions(command: str, device: str = "cpu") -> list[str]:
    """When, on what, with what: the lines above every table."""
    packages = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    return [
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC · {hardware(device)} · commit {commit()}",
        "",
        f"Python {platform.python_version()}, {packages}",
        "",
        f"`{command}`",
    ]


def hardware(device: str = "cpu") -> str:
    """Processor, CPUs and memory of this machine; for `cuda` also its GPU."""
    cpus = Path("/proc/cpuinfo").read_text()
    names = re.findall(r"^model name\s*: (.+)$", cpus, re.MULTILINE)
    memory_kb = int(re.findall(r"^MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text(), re.MULTILINE)[0])
    found = f"{names[0] if names else platform.machine()}, {len(names)} CPUs, {memory_kb / 2**20:.0f} GiB"
    return f"{found}, {_gpu()}" if device == "cuda" else found


def _gpu() -> str:
    import torch  # CPU sections are written without it

    return torch.cuda.get_device_name()


def commit() -> str:
    """Short hash of the checkout; `+` when tracked files of the measured packages differ from it."""
    git = ("git", "-C", str(REPOSITORY))
    done = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    measured = ("curation", "nuwa")
    changed = subprocess.run([*git, "diff", "--quiet", "HEAD", "--", *measured], capture_output=True, check=False)
    return (done.stdout.strip() or "unknown") + ("+" if changed.returncode == 1 else "")


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table: first column to the left, the others to the right."""
    rule = ["---", *["---:"] * (len(head) - 1)]
    return ["| " + " | ".join(cells) + " |" for cells in (head, rule, *rows)]


def verdict(value: float, bar: float, at_most: bool) -> str:
    """`value` beside its bar, and whether it holds."""
    holds = value <= bar if at_most else value >= bar
    return f"{value:.2f} ({'≤' if at_most else '≥'} {bar:g}: {'holds' if holds else '**missed**'})"
