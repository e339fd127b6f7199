"""Memory of the command is that of its own process, and growth above the loaded model is not hidden by the model."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import generation_memory, results
from benchmarks.generation_kills import Kills
from benchmarks.generation_memory import Peaks, measure, peak_bytes, report

MIB = 2**20


def holds(peaks: dict[int, Peaks]) -> list[bool]:
    """The verdicts: of the whole process, of what lies above the loaded model."""
    return ["holds" in line for line in report(peaks) if line.startswith("- ")]


def test_own_memory_that_doubles_is_a_miss_though_the_process_hardly_grows() -> None:
    doubled = {226: Peaks(1030 * MIB, 930 * MIB), 3376: Peaks(1130 * MIB, 930 * MIB)}
    assert holds(doubled) == [True, False]
    assert holds({226: doubled[226], 3376: Peaks(1040 * MIB, 935 * MIB)}) == [True, True]
    assert holds({226: doubled[226], 3376: Peaks(1300 * MIB, 930 * MIB)}) == [False, False]


def test_growth_while_loading_counts() -> None:
    """The model is what the shortest video loads: a list of all frames made before the first window is growth."""
    assert holds({226: Peaks(1030 * MIB, 930 * MIB), 3376: Peaks(1130 * MIB, 1030 * MIB)}) == [True, False]


def test_nothing_above_the_model_proves_nothing() -> None:
    assert holds({226: Peaks(930 * MIB, 930 * MIB), 3376: Peaks(930 * MIB, 930 * MIB)}) == [True, False]


def test_the_peak_is_that_of_the_child() -> None:
    """In a process of its own: what starts the child counts too, and the tests are larger than the child."""
    program = f"""
import sys
from benchmarks.generation_memory import peak_bytes
print([peak_bytes([sys.executable, "-c", f"held = bytes(1) * {{size}}"]) for size in (1, {400 * MIB})])
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=results.REPOSITORY, check=True
    )
    little, much = (int(size) for size in done.stdout.strip(" []\n").split(","))
    assert little < 200 * MIB
    assert 400 * MIB < much < 600 * MIB


def test_a_command_that_fails_is_told() -> None:
    with pytest.raises(RuntimeError, match=r"ended with 1: no such story"):
        peak_bytes([sys.executable, "-c", "raise SystemExit('no such story')"])


def test_the_command_is_given_again_when_its_video_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[list[str]] = []

    def run(command: list[str]) -> int:
        commands.append(command)
        return len(commands)

    monkeypatch.setattr(generation_memory, "peak_bytes", run)
    settings = Kills(model=tmp_path, frames=99, windows=1, steps=2, batch=5, kills=1, seed=0, device="cpu")
    assert measure(settings, (16, 46), tmp_path, lambda _: None) == {16: Peaks(1, 2), 46: Peaks(3, 4)}
    assert commands[0] == commands[1]
    assert commands[2] == commands[3]
    assert commands[0][1:3] == ["-m", "pipelines.generate"]
    assert [command[command.index("--frames") + 1] for command in commands[::2]] == ["16", "46"]
    assert len({command[command.index("--output") + 1] for command in commands}) == 2


def test_sections_of_a_gpu_name_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Some GPU 9000")
    for device in ("cpu", "cuda"):
        results.write_section(device, "Title", "make it", ["line"], tmp_path / f"{device}.md", device)
    assert "Some GPU 9000" in (tmp_path / "cuda.md").read_text()
    assert "Some GPU 9000" not in (tmp_path / "cpu.md").read_text()


def test_sections_of_a_cpu_are_written_without_torch(tmp_path: Path) -> None:
    program = f"""
import sys
from pathlib import Path
from benchmarks.results import write_section
write_section("name", "Title", "make it", ["line"], Path({str(tmp_path / "RESULTS.md")!r}))
sys.exit("torch" in sys.modules)
"""
    subprocess.run([sys.executable, "-c", program], cwd=results.REPOSITORY, check=True)
