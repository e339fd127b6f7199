"""How far a hero's path is from the regular motion that its prompt names: the phase error, in periods.

A motion faster than the stride of keyframes cannot be told from them: each window in between guesses where the hero is
in its period. The phase is read from every frame and its two neighbours on either side; what is left of it when a
steady advance is taken off is the error, 0 for a perfect motion and 1/√12 = 0.289 for phases that mean nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from demo import probe, world

Floats = NDArray[np.float64]
Video = NDArray[np.uint8]

PERIOD_S = {"circles": 2.4, "jumps": 1.1}
"""Of the toon world's regular motions (`demo.world.pose_at`)."""
CHANCE = 12**-0.5
REACH = 2
"""Frames to either side that a phase is read from: a height alone does not tell up from down."""
PHASES = 96
"""Phases that are told apart."""


@dataclass(frozen=True)
class PhaseError:
    """Root mean square of the phase's deviation, in periods (NaN: no hero), and the share of frames with a hero."""

    periods: float
    found: float


def phase_error(video: Video, scene: world.Scene, fps: float) -> PhaseError:
    """Of a video (t h w 3) that should show one scene from its beginning."""
    path = hero_path(video)
    found = float(np.isfinite(path[:, 0]).mean())
    left = phases(path, scene, fps) - np.arange(len(path)) / (fps * PERIOD_S[scene.action])
    turns = np.exp(2j * np.pi * left[np.isfinite(left)])
    if len(turns) == 0:
        return PhaseError(float("nan"), found)
    off = np.angle(turns / np.exp(1j * np.angle(turns.mean()))) / (2 * np.pi)
    return PhaseError(float(np.sqrt(np.square(off).mean())), found)


def hero_path(video: Video) -> Floats:
    """Centre of the hero in every frame, (t 2), in frame heights; NaN where none was found."""
    readings = [probe.read_frame(frame) for frame in video]
    return np.array([(np.nan, np.nan) if one.x is None or one.y is None else (one.x, one.y) for one in readings])


def phases(path: Floats, scene: world.Scene, fps: float) -> Floats:
    """Phase of the scene's motion at every frame, (t,), in periods from 0 to 1; NaN where fewer than three of the
    frames around it show a hero.
    """
    offsets = np.arange(-REACH, REACH + 1)
    grid = np.arange(PHASES) / PHASES
    drawn = np.array([[_place(scene, phase, offset / fps) for offset in offsets] for phase in grid])  # g k 2
    around = np.pad(path, ((REACH, REACH), (0, 0)), constant_values=np.nan)
    found = np.full(len(path), np.nan)
    for frame in range(len(path)):
        seen = around[frame : frame + len(offsets)]
        there = np.isfinite(seen[:, 0])
        if there.sum() > REACH:
            found[frame] = grid[np.square(drawn[:, there] - seen[there]).sum(axis=(1, 2)).argmin()]
    return found


def _place(scene: world.Scene, phase: float, time_s: float) -> tuple[float, float]:
    pose = world.pose_at(replace(scene, phase=phase), time_s)
    return pose.x, pose.y


def fast_scenes(count: int, duration_s: float, seed: int) -> list[world.Scene]:
    """Clean scenes of regular motions, in turn, with heroes and places that training has shown."""
    scenes = []
    for number in range(count):
        rng = np.random.default_rng([seed, number])
        hero = world.random_hero(rng, held_out=False)
        scenes.append(
            world.Scene(
                shape=hero[0],
                colour=hero[1],
                place=world.random_place(rng, hero, held_out=False),
                action=list(PERIOD_S)[number % len(PERIOD_S)],
                duration_s=duration_s,
                phase=float(rng.random()),
            )
        )
    return scenes


def mean_error(errors: Sequence[PhaseError]) -> PhaseError:
    """Over videos; those without any hero count as chance."""
    periods = [CHANCE if np.isnan(one.periods) else one.periods for one in errors]
    return PhaseError(float(np.mean(periods)), float(np.mean([one.found for one in errors])))
