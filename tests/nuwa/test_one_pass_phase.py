"""The measures of benchmarks.lumiere: phase errors and window borders whose truth is known."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch

from benchmarks import lumiere
from benchmarks.hero_phase import CHANCE, PERIOD_S, fast_scenes, phase_error, phases
from benchmarks.window_borders import border_errors, ratio
from demo import world
from nuwa.hierarchy import NuwaError

FPS, FRAMES = 8.0, 40


def film(scene: world.Scene, times: np.ndarray) -> np.ndarray:
    return np.stack([world.draw_scene(scene, float(time_s), 64, 64) for time_s in times])


@pytest.mark.parametrize("scene", fast_scenes(2, FRAMES / FPS, seed=5), ids=list(PERIOD_S))
def test_the_true_motion_has_no_phase_error_and_others_have_that_of_chance(scene: world.Scene) -> None:
    steady = np.arange(FRAMES) / FPS
    true = phase_error(film(scene, steady), scene, FPS)
    assert true.periods < 0.02
    assert true.found == 1.0
    jumped = steady + np.where(np.arange(FRAMES) >= FRAMES // 2, 0.25 * PERIOD_S[scene.action], 0.0)
    assert phase_error(film(scene, jumped), scene, FPS).periods == pytest.approx(0.125, abs=0.03)
    still = phase_error(film(scene, np.zeros(FRAMES)), scene, FPS)
    assert still.periods > 0.7 * CHANCE


def test_phases_are_those_of_the_path() -> None:
    scene = replace(fast_scenes(1, 5.0, seed=5)[0], phase=0.25)
    path = np.array([[(p := world.pose_at(scene, n / FPS)).x, p.y] for n in range(20)])
    wanted = 0.25 + np.arange(20) / (FPS * PERIOD_S["circles"])
    off = np.abs((phases(path, scene, FPS) - wanted + 0.5) % 1 - 0.5)
    assert off.max() < 0.01
    path[5:12] = np.nan
    found = phases(path, scene, FPS)
    assert np.isnan(found[6:11]).all()
    assert np.isfinite(found[[0, 4, 12, 19]]).all()


def test_a_video_without_a_hero_has_no_phase() -> None:
    scene = fast_scenes(1, 5.0, seed=5)[0]
    nobody = phase_error(np.full((FRAMES, 64, 64, 3), 128, np.uint8), scene, FPS)
    assert np.isnan(nobody.periods)
    assert nobody.found == 0.0


def test_borders_are_the_frames_where_windows_begin_or_end() -> None:
    steps = torch.ones(11)
    steps[[3, 7]] = 2.0  # between frames 3 and 4, 7 and 8: windows of 4 without overlap
    video = torch.cat([torch.zeros(1), steps.cumsum(0)])[None, :, None, None].expand(3, 12, 2, 2)
    borders, interior = border_errors(video, window=4, overlap=0)
    assert borders == [4.0, 4.0]
    assert interior == [1.0] * 9
    assert ratio([(borders, interior)]) == 4.0
    assert len(border_errors(video, window=4, overlap=2)[0]) == 5  # at 2, 4, 6, 8, 10
    assert np.isnan(ratio([border_errors(video[:, :4], window=4, overlap=0)]))


def test_a_static_video_is_its_image_and_a_peer_that_is_missing_is_said_to_be(tmp_path: Path) -> None:
    rows = [line.split("|")[1:3] for line in lumiere.static(lumiere.Benchmark(quick=True, peers=tmp_path))]
    answers = {row[0].strip(): row[1].strip() for row in rows if len(row) == 2}
    assert float(answers["ours"]) < 1e-5
    assert answers["lumiere-pytorch"] == "not installed"


def test_phases_are_compared_over_one_pass_of_the_model_or_the_table_says_that_windows_are_joined() -> None:
    nuwa, stunet = (
        cast("Any", SimpleNamespace(config=SimpleNamespace(window_length=length))) for length in (16, FRAMES)
    )
    given = lumiere.Benchmark(stunet=Path("model"))
    assert lumiere.phase_frames(given, nuwa, stunet) == FRAMES
    assert lumiere.joined(FRAMES, stunet) == ""
    assert lumiere.phase_frames(replace(given, frames=64), nuwa, stunet) == 64
    assert lumiere.joined(64, stunet) == ", windows of 40 joined"
    with pytest.raises(NuwaError, match="frames is 16, the clip that model was trained for, one window of NUWA-XL; gi"):
        lumiere.phase_frames(given, nuwa, nuwa)


def test_what_the_benchmark_cannot_measure_is_one_line() -> None:
    with pytest.raises(NuwaError, match="needs a trained space-time U-Net; give --stunet FOLDER"):
        lumiere.phase(lumiere.Benchmark())
    with pytest.raises(NuwaError, match="videos 0"):
        lumiere.Benchmark(videos=0)
