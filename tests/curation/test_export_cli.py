"""`python -m pipelines.export`: what it prints, and wrong use answered with exit status 2 and one line."""

from pathlib import Path

import pytest

from pipelines import cli
from pipelines.export import Export, main
from tests.curation.exported import build_with_files


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_with_files(tmp_path_factory.mktemp("made"))


@pytest.mark.parametrize(("kind", "name"), [("videofolder", "out"), ("webdataset", "out"), ("opensora", "out.csv")])
def test_each_format(dataset: Path, tmp_path: Path, kind: str, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--dataset", str(dataset), "--format", kind, "--output", str(tmp_path / name)]
    assert cli.run(main, Export, [*words, "--dry-run"]) == 0
    assert not (tmp_path / name).exists()
    assert '"where": "keep"' in capsys.readouterr().out
    for _ in range(2):  # the same command again replaces its own
        assert cli.run(main, Export, words) == 0
        assert capsys.readouterr().out == f"{tmp_path / name}: 4 clips\n"
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--dataset", "{tmp}/nothing", "--format", "webdataset", "--output", "{tmp}/out"], "is no dataset"),
        (["--dataset", "{data}", "--format", "webdataset"], "--output is missing"),
        (["--dataset", "{data}", "--format", "opensora", "--output", "{tmp}/out"], "does not end in .csv"),
        (["--dataset", "{data}", "--format", "webdataset", "--output", "{data}"], "holds something else"),
        (["--dataset", "{data}", "--format", "opensora", "--output", "{tmp}/a.csv", "--where", "beauty > 1"], "beauty"),
        (["--dataset", "{data}", "--format", "webdataset", "--output", "/dev/null/x"], "cannot be written"),
        (["--dataset", "{data}", "--format", "webdataset", "--output", "s3://bucket/x"], "is not on this machine"),
    ],
)
def test_wrong_use_is_one_line(
    dataset: Path, tmp_path: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    filled = [word.format(tmp=tmp_path, data=dataset) for word in words]
    assert cli.run(main, Export, filled) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.strip().splitlines()
    assert message in line
    assert list(tmp_path.iterdir()) == []


def test_unknown_format(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.run(main, Export, ["--dataset", str(dataset), "--format", "tfrecord", "--output", "x"])
    assert caught.value.code == 2
    assert "videofolder" in capsys.readouterr().err
