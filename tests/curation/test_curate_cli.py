"""Wrong use of `python -m pipelines.curate`: exit status 2, one line that says what to do, nothing touched, no Ray."""

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from curation import profiles
from curation.config import AxisRule, CurationConfig, RunConfig, SelectConfig
from curation.config_json import to_json
from curation.manifest import Manifest
from curation.model_config import AestheticsConfig, EmbedConfig
from curation.store import Store
from pipelines import cli
from pipelines.curate import Curate, load_profile, main, stages, whole_config


@pytest.fixture
def profile(random_config: CurationConfig, tmp_path: Path) -> Path:
    path = tmp_path / "profile.json"
    path.write_text(to_json(random_config))
    return path


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one line with which `words` are refused."""
    assert cli.run(main, Curate, list(words)) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.strip().splitlines()
    assert len(lines) == 1
    return lines[0]


def make_inputs(folder: Path) -> None:
    for name in ("empty", "texts", "zero"):
        (folder / name).mkdir(parents=True)
    (folder / "texts" / "a.txt").write_text("words")
    (folder / "zero" / "a.mp4").touch()


@pytest.mark.parametrize(
    ("place", "says"),
    [
        ("missing", "does not exist"),
        ("empty", "holds no video"),
        ("texts", "holds no video"),
        ("zero", "are empty"),
    ],
)
def test_bad_inputs(capsys: pytest.CaptureFixture[str], tmp_path: Path, profile: Path, place: str, says: str) -> None:
    make_inputs(tmp_path / "in")
    line = refused(
        capsys, "--input", str(tmp_path / "in" / place), "--output", str(tmp_path / "out"), "--profile", str(profile)
    )
    assert says in line
    assert not (tmp_path / "out").exists()


def test_unknown_profile_and_missing_flag(capsys: pytest.CaptureFixture[str], tmp_path: Path, footage: Path) -> None:
    out = ["--output", str(tmp_path / "out")]
    line = refused(capsys, "--input", str(footage), *out, "--profile", "nope")
    assert "demo" in line
    assert "svd" in line
    assert "does not exist" in refused(capsys, "--input", str(footage), *out, "--profile", "nope.json")
    words = ["--input", str(footage), "--output", "nosuch://bucket/dataset"]
    assert "use a path, file:// or s3://" in refused(capsys, *words)
    assert "must be at least 0" in refused(capsys, "--input", str(footage), *out, "--max-failures", "-1")
    assert "--input is missing" in refused(capsys, *out)
    assert "is no dataset" in refused(capsys, *out, "--reselect")
    assert "is no dataset" in refused(capsys, *out, "--verify")
    assert not (tmp_path / "out").exists()


def test_missing_and_truncated_models(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, footage: Path, random_config: CurationConfig, model_folder: Path
) -> None:
    cut = tmp_path / "cut"
    cut.mkdir()
    for path in (model_folder / "coca").iterdir():
        (cut / path.name).write_bytes(path.read_bytes()[: 4000 if path.suffix == ".safetensors" else None])
    for folder, says in ((tmp_path / "none", "missing"), (cut, "not a whole safetensors file")):
        profile = tmp_path / "p.json"
        profile.write_text(to_json(dataclasses.replace(random_config, embed=EmbedConfig(weights=folder))))
        words = ["--input", str(footage), "--output", str(tmp_path / "out"), "--profile", str(profile)]
        line = refused(capsys, *words)
        assert says in line
        assert "embed.weights" in line
        assert not (tmp_path / "out").exists()


def test_output_that_holds_something_else(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, footage: Path, profile: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "config.json").write_text('{"stage": "mtd"}')
    line = refused(capsys, "--input", str(footage), "--output", str(out), "--profile", str(profile))
    assert "holds something else" in line
    assert [path.name for path in out.iterdir()] == ["config.json"]


def test_output_that_cannot_be_a_folder(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, footage: Path, profile: Path
) -> None:
    (tmp_path / "file").write_text("words")
    for out, says in ((tmp_path / "file", "is a file"), (tmp_path / "file" / "below", "cannot be written")):
        assert says in refused(capsys, "--input", str(footage), "--output", str(out), "--profile", str(profile))
    assert (tmp_path / "file").read_text() == "words"


@pytest.mark.parametrize("axis", ["beauty", "caption"])
def test_rules_on_what_is_no_score_are_refused_before_measuring(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, footage: Path, random_config: CurationConfig, axis: str
) -> None:
    rules = (AxisRule(axis=axis, minimum=1.0),)
    configs = (
        dataclasses.replace(random_config, select=SelectConfig(rules=rules)),
        dataclasses.replace(random_config, runs=RunConfig(mean_rules=rules)),
    )
    for config in configs:
        (tmp_path / "p.json").write_text(to_json(config))
        words = ["--input", str(footage), "--output", str(tmp_path / "out"), "--profile", str(tmp_path / "p.json")]
        line = refused(capsys, *words)
        assert f"rule on {axis!r}" in line
        assert "motion_score" in line
        assert not (tmp_path / "out").exists()


def test_dry_run_prints_and_does_nothing(capsys: pytest.CaptureFixture[str], tmp_path: Path, footage: Path) -> None:
    words = ["--input", str(footage), "--output", str(tmp_path / "out"), "--dry-run"]
    assert cli.run(main, Curate, words, whole=whole_config) == 0
    assert json.loads(capsys.readouterr().out)["stages"]["profile"] == "demo"
    assert not (tmp_path / "out").exists()


def test_without_profile_a_dataset_goes_on_with_its_own(
    random_config: CurationConfig, tmp_path: Path, footage: Path
) -> None:
    """Thresholds of one's own are not lost by leaving out --profile; the shipped profile is found where it is now."""
    for config in (dataclasses.replace(random_config, profile="mine"), profiles.demo()):
        out = tmp_path / config.profile
        Manifest.open(Store.at(out), config, str(footage), 1)
        assert stages(Curate(output=str(out))) == config
    encoded = stages(Curate(output=str(tmp_path / "mine"), materialize="encode"))
    assert encoded.clip_files.materialize == "encode"
    assert encoded.profile == "mine"


def test_a_refused_command_leaves_a_dataset_as_it_was(
    capsys: pytest.CaptureFixture[str], random_config: CurationConfig, tmp_path: Path, footage: Path
) -> None:
    """Checks of models come before the config of the dataset changes: --reselect must not believe what was refused."""
    out, other = tmp_path / "out", tmp_path / "other.json"
    Manifest.open(Store.at(out), random_config, str(footage), 1)
    before = {path: path.read_bytes() for path in out.rglob("*.json")}
    narrow = tmp_path / "narrow.safetensors"
    save_file({"weight": np.ones((1, 64), np.float32), "bias": np.zeros(1, np.float32)}, narrow)
    merge = dataclasses.replace(random_config.merge, llm_url="http://127.0.0.1:9/v1", llm_model="m", llm_max_retries=0)
    text = dataclasses.replace(random_config.text, detector="easyocr", weights_dir=tmp_path)
    for wrong, says in (
        ({"text": text}, "craft_mlt_25k.pth"),
        ({"aesthetics": AestheticsConfig(head=narrow)}, "width 64"),
        ({"merge": merge}, "127.0.0.1:9"),
    ):
        other.write_text(to_json(dataclasses.replace(random_config, **wrong)))
        assert says in refused(capsys, "--input", str(footage), "--output", str(out), "--profile", str(other))
        after = {path: path.read_bytes() for path in out.rglob("*.json") if path.name != "inputs.json"}
        assert after == before


def test_a_dataset_is_no_footage_of_its_own(capsys: pytest.CaptureFixture[str], tmp_path: Path, footage: Path) -> None:
    out = tmp_path / "out"
    (out / "media" / "runs").mkdir(parents=True)
    (out / "media" / "runs" / "a.mp4").write_bytes((footage / "a.mp4").read_bytes())
    line = refused(capsys, "--input", str(tmp_path), "--output", str(out))
    assert "only files of the output" in line


def test_flags_that_contradict_each_other(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = ["--output", str(tmp_path / "out")]
    assert "leave out --input" in refused(capsys, *out, "--reselect", "--input", "x")
    assert "give one of them" in refused(capsys, *out, "--reselect", "--verify")


def test_break_reasons_that_nothing_has(
    capsys: pytest.CaptureFixture[str], random_config: CurationConfig, tmp_path: Path, footage: Path
) -> None:
    wrong = dataclasses.replace(random_config, runs=RunConfig(break_reasons=("nonsense",)))
    (tmp_path / "p.json").write_text(to_json(wrong))
    words = ["--input", str(footage), "--output", str(tmp_path / "out"), "--profile", str(tmp_path / "p.json")]
    assert "'nonsense'" in refused(capsys, *words)


def test_profile_from_a_file_is_the_profile(random_config: CurationConfig, profile: Path) -> None:
    assert load_profile(str(profile)) == random_config


def test_ray_is_not_imported_for_a_refusal(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    before = "ray" in sys.modules
    refused(capsys, "--input", str(tmp_path / "missing"), "--output", str(tmp_path / "out"))
    assert ("ray" in sys.modules) == before
