"""Evidence about training on long videos: its data, its two trainings, and verdicts from made-up measurements."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from benchmarks import arms, long_against_short, silent_toons
from benchmarks.arms import ArmError, claim
from benchmarks.long_against_short import LONG, SHORT, MeasureLong
from benchmarks.long_short_report import SHARES, Compared, report
from demo import probe, stories, world
from nuwa.data.runs import read_runs
from nuwa.data.windows import WindowDataset
from nuwa.evaluate.bootstrap import Bootstrap
from nuwa.train.config_checks import resolve
from pipelines import cli

FRAMES = 40


def test_prompts_say_everything_but_the_hero() -> None:
    scenes = silent_toons.draw_episode(3, 300)
    for scene in dict.fromkeys(scenes):
        words = silent_toons.silent_prompt(scene).split()
        assert scene.action in " ".join(words)
        assert scene.place in words
        assert not {scene.colour, scene.shape} & set(words)
    assert not any(world.is_held_out(scene.shape, scene.colour, scene.place) for scene in scenes)
    assert len({(scene.shape, scene.colour) for scene in scenes}) == 1


def test_episodes_are_a_dataset_whose_frames_show_their_prompts(tmp_path: Path) -> None:
    folder = silent_toons.write_episodes(tmp_path / "data", 2, FRAMES, seed=5)
    runs = read_runs(folder)
    assert [run.num_frames for run in runs] == [FRAMES] * 2
    data = WindowDataset(runs, length=5, strides=(4, 1), hop=3)
    sample = data[0]
    scenes = silent_toons.draw_episode(5, FRAMES)
    assert sample.prompts == tuple(silent_toons.silent_prompt(scenes[4 * n]) for n in range(5))
    assert [probe.read_frame(frame).place for frame in sample.frames] == [scenes[4 * n].place for n in range(5)]
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.mp4")}
    assert silent_toons.write_episodes(tmp_path / "data", 2, FRAMES, seed=5) == folder
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.mp4")} == before
    shutil.rmtree(folder / "runs")  # as if stopped right before the end
    again = read_runs(silent_toons.write_episodes(tmp_path / "data", 2, FRAMES, seed=5))
    assert [(run.path, run.prompts) for run in again] == [(run.path, run.prompts) for run in runs]
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.mp4")} == before


def test_the_arms_train_alike_but_for_strides_and_masks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(long_against_short, "start_folder", lambda config: None)
    config = MeasureLong(work=tmp_path, episodes=1, episode_frames=FRAMES)
    long, short = (vars(resolve(long_against_short.training_of(config, kind, 4))) for kind in ("long", "short"))
    differ = {name for name, value in long.items() if short[name] != value}
    assert differ == {"output", "depth", "first_frame_frac", "prediction_frac"}
    assert (long["depth"], short["depth"]) == (2, 1)  # strides 15 and 1, and 1 alone


def test_a_video_keeps_its_hero_from_the_first_second_to_the_last_part() -> None:
    scenes = silent_toons.draw_episode(3, 80)
    video = stories.draw_frames(scenes, 32, 32, 8.0)
    found = long_against_short.judged(video, scenes)
    assert found["features"].shape[0] == long_against_short.POSITIONS
    assert found["colour at"].tolist() == [1.0] * long_against_short.SPANS
    assert found["hero kept"].tolist() == found["place right"].tolist() == [1.0]
    swapped = video.copy()
    swapped[48:] = swapped[48:, ..., [1, 2, 0]]  # other colours in the last two parts of five
    assert long_against_short.judged(swapped, scenes)["colour at"].tolist() == [1, 1, 1, 0, 0]


def compared(advantage: float) -> Compared:
    """Eight stories; shares and, along the video, features of the short arms are worse by `advantage`."""
    rng = np.random.default_rng(0)
    found = {}
    for arm in (LONG, *SHORT, "drawn"):
        worse = advantage if arm in SHORT else 0.0
        features = rng.normal(size=(8, 15, 6)) + worse * np.linspace(0, 3, 15)[:, None]
        shares = {name: 0.7 - 0.5 * worse + 0.01 * rng.normal(size=8) for name in SHARES}
        found[arm] = shares | {"features": features, "colour at": np.full((8, 5), 0.5)}
    return Compared(found, LONG, tuple(SHORT), "drawn", 28.0)


@pytest.mark.parametrize(
    ("advantage", "verdict"), [(1.0, "**reproduced**"), (-1.0, "**not reproduced**"), (0.0, "**not reproduced**")]
)
def test_the_verdict_follows_the_differences(advantage: float, verdict: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """At −1 shares are the other way round; a distance is not, because it grows with either sign."""
    monkeypatch.setattr(arms, "RESAMPLES", Bootstrap(draws=50))
    lines = report(compared(advantage))
    assert verdict in lines[-1]
    if advantage == 1.0:
        assert "10 of 10 comparisons as in the paper, 0 the other way round" in lines[-1]
    if advantage == -1.0:
        assert sum("other way round" in line for line in lines[:-1]) == 6


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (["--stories", "1"], "stories is 1; give 2 or more"),
        (["--episode-frames", "200"], "episode_frames is 200; give 226 or more"),
        (["--frames", "16"], "frames is 16; give 31 or more"),
        (["--init", "nothing"], "nothing"),
    ],
)
def test_bad_input_gives_one_line(
    change: list[str], line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--work", str(tmp_path / "work"), "--episodes", "1", "--episode-frames", "226", "--stories", "2", *change]
    assert cli.run(long_against_short.main, MeasureLong, words) == 2
    error = capsys.readouterr().err
    assert line in error
    assert error.count("\n") == 1


def test_a_folder_of_other_settings_is_refused(tmp_path: Path) -> None:
    claim(tmp_path / "work", {"steps": 3})
    with pytest.raises(ArmError, match="holds results with steps 3, not 4"):
        claim(tmp_path / "work", {"steps": 4})


@pytest.mark.slow  # two trainings of two steps, and six videos
def test_a_quick_run_goes_on_where_it_was_and_says_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = MeasureLong(work=tmp_path, quick=True, results=tmp_path / "RESULTS.md")
    long_against_short.main(config)
    first = capsys.readouterr().out
    victim = tmp_path / "quick" / "stories" / "short-o8-0-01.json"
    kept = json.loads(victim.read_text())
    victim.unlink()
    long_against_short.main(config)
    assert capsys.readouterr().out == first
    assert json.loads(victim.read_text())["hero kept"] == kept["hero kept"]
    assert not (tmp_path / "RESULTS.md").exists()
