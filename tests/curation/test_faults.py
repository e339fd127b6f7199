"""A job under kill -9: a small fault run end to end, and proof that its comparison sees what it looks for."""

import dataclasses
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks import results
from benchmarks.broken_inputs import KINDS, broken_inputs
from benchmarks.compare_datasets import differences, lost_and_doubled, wrong_captions
from benchmarks.faults import Faults, fault_run, report
from benchmarks.films import free_box, looped, many_inputs, toon_films
from benchmarks.kills import run_through
from benchmarks.one_pass import Row, bars, measure
from curation.analyse import decode_pass
from curation.config import CurationConfig
from curation.config_error import CurationError
from curation.video import content_hash, decode, write_video


@pytest.fixture(scope="session")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Half a second of a square that moves."""
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    images = np.full((24, 64, 64, 3), 90, np.uint8)
    for number, image in enumerate(images):
        image[20:40, number : number + 20] = 220
    write_video(path, images, fps=16.0, gop_frames=8)
    return path


@pytest.mark.slow  # two jobs on a Ray of their own
@pytest.mark.ray
def test_kills_and_broken_inputs_lose_double_and_change_nothing(tmp_path: Path) -> None:
    config = Faults(inputs=24, broken=12, kills=3, seed=1, films=tmp_path / "films")
    outcome = fault_run(config, tmp_path / "run")
    assert outcome.lost == outcome.doubled == outcome.wrong_captions == []
    assert outcome.differences == []
    assert outcome.problems == []
    assert len(outcome.disturbed.kills) == 3
    assert outcome.statuses.total() == 24
    assert outcome.statuses["ok"] >= 12
    assert outcome.statuses["failed"] >= 1
    assert any("holds" in line for line in report(config, outcome))


def test_every_kind_of_broken_input_ends_in_a_status(film: Path, tmp_path: Path) -> None:
    """Also those that no decoder rejects: they are one row each, and the decoding process survives."""
    made = broken_inputs(tmp_path / "broken", film, len(KINDS) + 6, None)
    assert len({path for _, path in made}) == len(KINDS) + 6
    for kind, path in made:
        analysis = decode_pass({"source_uri": str(path), "source_sha256": "0" * 64}, CurationConfig())
        assert analysis.video["status"] in ("ok", "empty", "failed"), kind
    again = broken_inputs(tmp_path / "again", film, len(KINDS) + 6, None)
    same = [
        (one, other) for (_, one), (_, other) in zip(made, again, strict=True) if one.is_file() and one.suffix != ".mkv"
    ]
    assert all(content_hash(str(one)) == content_hash(str(other)) for one, other in same)


def test_comparison_sees_a_lost_a_doubled_and_a_moved_row(dataset: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(dataset, broken)
    assert differences(dataset, broken) == wrong_captions(dataset, broken) == []
    uris = list(pd.read_parquet(dataset / "videos")["source_uri"])
    assert lost_and_doubled(uris, broken) == ([], [])

    _change(broken, "clips", lambda clips: clips.assign(caption_coca=np.roll(clips["caption_coca"].to_numpy(), 1)))
    assert len(wrong_captions(dataset, broken)) >= 2
    assert len(differences(dataset, broken)) >= 4

    _change(broken, "videos", lambda videos: pd.concat([videos.iloc[1:], videos.iloc[1:2]]))
    lost, doubled = lost_and_doubled(uris, broken)
    assert lost[:1] == uris[:1]
    assert doubled == uris[1:2]


def _change(dataset: Path, table: str, change) -> None:  # type: ignore[no-untyped-def]
    path = next((dataset / table).glob("*.parquet"))
    change(pd.read_parquet(path)).to_parquet(path)


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Two videos, each of two clips; one input failed."""
    from tests.curation import small_dataset

    root = small_dataset.build(tmp_path / "made")
    path = next((root / "clips").glob("*.parquet"))
    clips = pd.read_parquet(path)
    clips.assign(caption_coca=[f"caption {n}" for n in range(len(clips))]).to_parquet(path)
    return root


def test_job_that_fails_is_given_again_and_refusal_is_not(tmp_path: Path) -> None:
    count = tmp_path / "count"
    fails_twice = f"import sys,pathlib; p=pathlib.Path({str(count)!r}); n=len(p.read_text()) if p.exists() else 0\n"
    fails_twice += "p.write_text('x' * (n + 1)); print('1/1 ok', file=sys.stderr); sys.exit(0 if n == 2 else 1)"
    story = run_through([sys.executable, "-c", fails_twice], tmp_path / "log")
    assert (story.starts, story.units, story.kills) == (3, 3, [])
    with pytest.raises(RuntimeError, match="refuses"):
        run_through([sys.executable, "-c", "raise SystemExit(2)"], tmp_path / "log")
    with pytest.raises(RuntimeError, match="after 2 starts"):
        run_through([sys.executable, "-c", "raise SystemExit(1)"], tmp_path / "log", most_starts=2)


def test_looped_film_is_as_long_and_many_inputs_differ_in_bytes_only(film: Path, tmp_path: Path) -> None:
    frames = list(decode(str(looped(film, 10.0, tmp_path / "long.mp4"))))
    assert len(frames) == 7 * 24
    assert frames[-1].time_s == pytest.approx((7 * 24 - 1) / 16, abs=1e-3)
    inputs = many_inputs([film], tmp_path / "many", 3)
    assert len({content_hash(str(path))[0] for path in inputs}) == 3
    assert {len(list(decode(str(path)))) for path in inputs} == {24}
    assert free_box(1) != free_box(2)


def test_films_are_filmed_once(tmp_path: Path) -> None:
    first = toon_films(tmp_path, 2, duration_s=2.0, size_px=32)
    before = [path.stat().st_mtime_ns for path in first]
    assert [path.stat().st_mtime_ns for path in toon_films(tmp_path, 2, duration_s=2.0, size_px=32)] == before


def test_section_is_replaced_and_others_stay(tmp_path: Path) -> None:
    path = tmp_path / "RESULTS.md"
    for name, line in (("a", "one"), ("b", "two"), ("a", r"three \1")):
        results.write_section(name, f"Title {name}", "make it", [line], path)
    text = path.read_text()
    assert text.count("<!-- a -->") == text.count("<!-- b -->") == 1
    assert "one" not in text
    assert "two" in text
    assert r"three \1" in text
    assert "`make it`" in text


def test_bars_are_ratios_of_the_sums() -> None:
    names = ["floor", "svd", "cuts", "split", "detect", "motion"]
    names = ["floor", "svd", "demo", *names[2:]]
    seconds = dict(zip(names, (1.0, 1.5, 3.0, 6.0, 8.0, 1.0, 4.0), strict=True))
    cpu_s = {(name, "1080p"): value for name, value in seconds.items()}
    lines = bars(["1080p"], names, cpu_s, seconds)
    assert "1.50 (≤ 2: holds)" in lines[2]
    assert "4.00 (≥ 2.5: holds)" in lines[2]
    assert "8.00 (≥ 6: holds)" in lines[2]
    assert "3.00 (≤ 1.6: **missed**)" in lines[3]


def test_rows_are_measured_in_child_processes_and_a_failure_names_itself(tmp_path: Path) -> None:
    ours = Row("ours", (sys.executable, "-c", "print('{\"cpu_s\": 2.5}')"))
    assert measure({"a": tmp_path / "a.mp4"}, [ours, dataclasses.replace(ours, name="peer", peer=True)], 3) == {
        ("ours", "a"): 2.5,
        ("peer", "a"): 2.5,
    }
    bad = Row("bad", (sys.executable, "-c", "import sys; print('no such', file=sys.stderr); sys.exit(3)"))
    with pytest.raises(RuntimeError, match=r"bad on a\.mp4: exit 3: no such"):
        measure({"a": tmp_path / "a.mp4"}, [bad], 1)


def test_mistakes_are_one_line(tmp_path: Path) -> None:
    from benchmarks.clips import media_folder, real_clips
    from benchmarks.one_pass import rows

    with pytest.raises(CurationError, match=r"benchmarks/peers\.sh"):
        rows(tmp_path)
    with pytest.raises(CurationError, match="--media"):
        media_folder(tmp_path / "nothing")
    with pytest.raises(CurationError, match="lacks pyscenedetect"):
        real_clips(tmp_path, tmp_path / "clips")
    with pytest.raises(CurationError, match="broken = 9"):
        Faults(inputs=9, broken=9)
    assert os.listdir(tmp_path) == [] or not (tmp_path / "clips" / "1080p.mp4").exists()  # noqa: PTH208
