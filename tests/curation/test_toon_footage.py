"""Bars on held-out toon episodes, against their truth: cuts, static scenes, burned-in text."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from curation import profiles
from curation.analyse import ClipAnalysis, decode_pass
from curation.config import AxisRule, SelectConfig
from curation.stages.select import select
from curation.stages.text import TextDetector
from curation.video import write_video
from demo import world

pytestmark = pytest.mark.slow  # films and decodes minutes of footage
EPISODES = 16
FPS = 16.0
Filmed = list[tuple[world.Episode, list[ClipAnalysis]]]


def analysed(episode: world.Episode, path: Path) -> list[ClipAnalysis]:

    write_video(path, world.frames(episode, 128, 128), FPS, gop_frames=48)
    analysis = decode_pass({"source_uri": str(path), "source_sha256": "0" * 64}, profiles.demo())
    assert analysis.video["status"] == "ok"
    return analysis.clips


@pytest.fixture(scope="module")
def filmed(tmp_path_factory: pytest.TempPathFactory) -> Filmed:
    folder = tmp_path_factory.mktemp("toons")
    episodes = [world.random_episode(2000 + k, fps=FPS, held_out=True) for k in range(EPISODES)]
    return [(episode, analysed(episode, folder / f"{episode.seed}.mp4")) for episode in episodes]


@pytest.fixture(scope="module")
def action_clips(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[world.Scene, ClipAnalysis]]:
    """Every action in every place and quality, three seconds each, joined by hard cuts."""
    rng = np.random.default_rng(0)
    settings = [(a, p, q) for a in world.ACTIONS for p in world.PLACES for q in world.QUALITIES]
    scenes = tuple(
        world.Scene(
            shape=str(rng.choice(world.SHAPES)),
            colour=str(rng.choice(world.COLOURS)),
            place=settings[k][1],
            action=settings[k][0],
            duration_s=3.0,
            quality=settings[k][2],
            phase=float(rng.random()),
        )
        for k in rng.permutation(len(settings))
    )
    episode = world.Episode(seed=1, fps=FPS, scenes=scenes, transitions=("hard",) * (len(scenes) - 1))
    pairs = []
    for clip in analysed(episode, tmp_path_factory.mktemp("actions") / "all.mp4"):
        first, num = int(str(clip.row["start_frame"])), int(str(clip.row["num_frames"]))
        if abs(num - 48) <= 2:
            pairs.append((scenes[episode.scene_of_frame(first + num // 2)], clip))
    assert len(pairs) >= 0.8 * len(scenes)  # two degraded neighbours can meet in too weak a cut
    return pairs


def found(truth: list[int], cuts: list[int], tolerance: int) -> int:
    return sum(any(abs(cut - frame) <= tolerance for cut in cuts) for frame in truth)


@pytest.mark.parametrize(("kind", "tolerance", "bar"), [("hard", 1, 0.98), ("fade", 2, 0.95), ("dissolve", 3, 0.85)])
def test_cuts_are_found_and_named(filmed: Filmed, kind: str, tolerance: int, bar: float) -> None:
    hits = wanted = given = 0
    for episode, clips in filmed:
        truth = [f for f, k in zip(episode.first_frames[1:], episode.transitions, strict=True) if k == kind]
        cuts = [int(str(clip.row["start_frame"])) for clip in clips if clip.row["cut_in"] == kind]
        hits, wanted, given = hits + found(truth, cuts, tolerance), wanted + len(truth), given + len(cuts)
    f1 = 2 * hits / (wanted + given)
    print(f"{kind}: F1 {f1:.4f}, {hits} of {wanted} found, {given} given")
    assert f1 >= bar


def rejected_for_motion(clips: list[ClipAnalysis]) -> np.ndarray:
    rule: AxisRule = next(rule for rule in profiles.demo().select.rules if rule.axis == "motion_score")
    table = pd.DataFrame({"motion_score": [clip.row["motion_score"] for clip in clips]})
    return np.logical_not(select(table, SelectConfig(rules=(rule,)))[0])


def test_static_scenes_of_every_quality_are_rejected_and_moving_ones_kept(
    action_clips: list[tuple[world.Scene, ClipAnalysis]],
) -> None:
    rejected = rejected_for_motion([clip for _, clip in action_clips])
    static = np.array([scene.action == "stands still" for scene, _ in action_clips])
    print(f"rejected: {rejected[static].mean():.3f} of static, {rejected[~static].mean():.3f} of moving scenes")
    assert rejected[static].mean() >= 0.95
    assert rejected[~static].mean() <= 0.1


def test_static_scenes_of_episodes_are_rejected(filmed: Filmed) -> None:
    """A scene counts as rejected when the clip over its middle is."""
    answers: list[bool] = []
    for episode, clips in filmed:
        rejected = rejected_for_motion(clips)
        starts = np.array([int(str(clip.row["start_frame"])) for clip in clips])
        for first, scene in zip(episode.first_frames, episode.scenes, strict=True):
            middle = first + round(scene.duration_s * FPS / 2)
            if scene.action == "stands still":
                answers.append(bool(rejected[np.searchsorted(starts, middle, side="right") - 1]))
    print(f"static scenes in episodes: {sum(answers)} of {len(answers)} rejected")
    assert len(answers) >= 5
    assert np.mean(answers) >= 0.9  # a dissolve that is missed joins a static scene to a moving one


def auc(positive: np.ndarray, negative: np.ndarray) -> float:
    """Probability that a positive ranks above a negative, ties half."""
    difference = positive[:, None] - negative[None]
    return float((difference > 0).mean() + (difference == 0).mean() / 2)


def test_text_scenes_rank_above_plain_ones(filmed: Filmed) -> None:
    detector: Callable[[ClipAnalysis], float] = _mean_area(TextDetector(profiles.demo().text))
    areas: dict[bool, list[float]] = {True: [], False: []}
    for episode, clips in filmed:
        for clip in clips:
            middle = int(str(clip.row["start_frame"])) + int(str(clip.row["num_frames"])) // 2
            areas[bool(episode.scenes[episode.scene_of_frame(middle)].title)].append(detector(clip))
    text, plain = np.array(areas[True]), np.array(areas[False])
    score = auc(text, plain)
    print(f"text AUC {score:.4f}; over 7 %: {(text > 0.07).mean():.3f} of text, {(plain > 0.07).mean():.3f} of plain")
    assert score >= 0.95


def _mean_area(detector: TextDetector) -> Callable[[ClipAnalysis], float]:
    return lambda clip: float(np.mean(detector.area_frac(list(clip.frames))))
