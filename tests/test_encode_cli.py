"""pipelines.encode from the command line: its size first, nothing twice, a check, and one line for what is wrong."""

import json
from pathlib import Path

import pytest

from nuwa.generate.pipeline_folder import save_pipeline
from pipelines import cli
from pipelines.encode import Encode, main
from tests.nuwa.stack import build
from tests.nuwa.tiny_dataset import write_dataset


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command line for a tiny dataset and pipeline."""
    folder = tmp_path_factory.mktemp("world")
    write_dataset(folder / "ds", [14, 11])
    save_pipeline(build(), folder / "tiny")
    places = ["--dataset", str(folder / "ds"), "--model", str(folder / "tiny"), "--output", str(folder / "latents")]
    return ["mtd", *places, "--engine", "local", "--length", "4"]


def test_it_prints_the_size_encodes_once_and_verifies(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(main, Encode, words) == 0
    said = capsys.readouterr().out.splitlines()
    # (7 + 19) windows of two moments and 19 + 1 conditions of 4·4·8·8 halves, and 4 prompts of 8·8 floats
    assert said[0] == "2 runs, 46 windows and conditions of 4 frames, 4 prompts: 148 kB; to encode: 46, 148 kB"
    assert cli.run(main, Encode, words) == 0
    assert capsys.readouterr().out.splitlines()[0].endswith("to encode: 0, 0 B")
    assert cli.run(main, Encode, [*words, "--verify", "--sample", "3"]) == 0
    assert "files whole; 3 windows encoded again, largest difference " in capsys.readouterr().out


def test_dry_run_prints_the_settings_and_does_nothing(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(main, Encode, [*words[:6], "nowhere", *words[7:], "--dry-run"]) == 0
    settings = json.loads(capsys.readouterr().out)
    assert (settings["stage"], settings["output"], settings["depth"], settings["length"]) == ("mtd", "nowhere", 2, 4)
    assert not Path("nowhere").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--verify", "--hop", "1", "--depth", "1", "--output", "nowhere"], "lacks 20 of 20 windows and conditions"),
        (["--hop", "0"], "hop is 0"),
        (["--dataset", "nowhere"], "dataset nowhere is not a folder"),
        (["--output", __file__], "is a file; give a folder"),
    ],
)
def test_what_the_user_must_change_is_one_line(
    words: list[str], change: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(main, Encode, [*words, *change]) == 2
    assert message in capsys.readouterr().err
    assert not Path("nowhere").exists()
