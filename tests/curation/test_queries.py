"""Every query of docs/dataset.md runs on a small dataset, and shows there what it shows on the page."""

from pathlib import Path

import av
import pytest

from curation.video import decode
from tests.curation import dataset_page, small_dataset

PAGE = dataset_page.PAGE.read_text("utf-8")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_dataset.build(tmp_path_factory.mktemp("queries"))


@pytest.fixture(scope="module")
def outputs(dataset: Path) -> dict[str, str]:
    return dataset_page.run_queries(PAGE, dataset)


def test_there_are_ten_and_each_shows_its_output() -> None:
    found = dataset_page.queries(PAGE)
    assert len(found) == PAGE.partition("## Ten queries")[2].count("\n### ") == 10
    assert len({query.title for query in found}) == 10
    assert [query.title for query in found if not query.output.strip()] == []
    assert str(Path.home()) not in PAGE


@pytest.mark.parametrize("title", [query.title for query in dataset_page.queries(PAGE)])
def test_a_query_runs_and_shows_something(title: str, outputs: dict[str, str]) -> None:
    lines = outputs[title].strip().splitlines()
    assert len(lines) >= 2
    assert "Empty DataFrame" not in outputs[title]


@pytest.mark.parametrize("query", dataset_page.queries(PAGE), ids=lambda query: query.title)
def test_the_columns_shown_are_those_on_the_page(query: dataset_page.Query, outputs: dict[str, str]) -> None:
    """A renamed column changes the first line; an output that was not renewed does not have it."""
    assert outputs[query.title].splitlines()[0].split() == query.output.splitlines()[0].split()


def test_figures_on_the_small_dataset(outputs: dict[str, str]) -> None:
    by_number = list(outputs.values())
    assert "duplicate" in by_number[0]
    assert by_number[1].count("low_") == 2
    assert by_number[0].split()[-5:] == ["ok", "2", "6.0", "6", "4"]
    assert "film0.mp4" in by_number[3]
    assert "film1.mp4" in by_number[7]


def test_queries_leave_nothing_behind(dataset: Path, outputs: dict[str, str]) -> None:
    assert not (dataset / "training.csv").exists()
    assert not Path("training.csv").exists()
    assert len(list(dataset.iterdir())) == 6


def test_outputs_are_put_in_their_places() -> None:
    outputs = {query.title: f"output {n}\n" for n, query in enumerate(dataset_page.queries(PAGE))}
    renewed = dataset_page.with_outputs(PAGE, outputs)
    assert [query.output for query in dataset_page.queries(renewed)] == list(outputs.values())
    assert [query.code for query in dataset_page.queries(renewed)] == [q.code for q in dataset_page.queries(PAGE)]
    same = {query.title: query.output for query in dataset_page.queries(PAGE)}
    assert dataset_page.with_outputs(PAGE, same) == PAGE


def test_copies_for_the_footage_of_the_page(dataset: Path, tmp_path: Path) -> None:
    for n in range(2):
        (tmp_path / f"episode_0000{n}.mp4").write_bytes((dataset.parent / f"film{n}.mp4").read_bytes())
    dataset_page.add_copies(tmp_path)
    content = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert content["copy.mp4"] == content["episode_00000.mp4"]
    assert content["episode_00001.mp4"].startswith(content["broken.mp4"])
    remuxed, second = (_pictures(tmp_path / name) for name in ("remuxed.mkv", "episode_00001.mp4"))
    assert remuxed == second
    assert len(remuxed) == 48
    with av.open(str(tmp_path / "remuxed.mkv")) as container:
        assert "matroska" in container.format.name


def _pictures(path: Path) -> list[bytes]:
    return [frame.image.tobytes() for frame in decode(str(path))]
