"""The toon world: procedural cartoon episodes with known truth.

An episode follows one hero (a coloured shape with eyes) through scenes. Every scene is a place and an action; places
return. Scenes meet in hard cuts, fades through black and dissolves; some carry burned-in text, some are degraded.
All lengths are in frame heights and all times in seconds, so an episode can be drawn at any size and frame rate.

Some combinations of shape, colour and place, whatever the action, never occur in training episodes (`is_held_out`);
every scene of a held-out episode is such a combination.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from demo import drawing

Image = NDArray[np.uint8]

SHAPES = ("circle", "square", "triangle", "star", "cross", "heart")
COLOURS = ("red", "yellow", "green", "cyan", "blue", "magenta")
PLACES = ("beach", "forest", "city", "desert", "space", "snow")
ACTIONS = ("walks left", "walks right", "jumps", "grows", "shrinks", "spins", "circles", "stands still")
QUALITIES = ("clean", "blurry", "noisy", "faded")
TRANSITIONS = ("hard", "fade", "dissolve")
TITLES = ("EPISODE", "THE END", "NEWS", "LATER", "SUBSCRIBE", "CHAPTER", "MEANWHILE", "COMING SOON")

PREPOSITION = {place: "on the" if place == "beach" else "in" if place == "space" else "in the" for place in PLACES}
TRANSITION_S = {"hard": 0.0, "fade": 1.0, "dissolve": 0.75}
HERO_RADIUS = 0.18
GROUND = 0.62


def is_held_out(shape: str, colour: str, place: str) -> bool:
    """Tell whether the combination is kept out of training: a third of the heroes in half of the places."""
    hero = SHAPES.index(shape) - COLOURS.index(colour)
    return hero % 3 == 0 and (SHAPES.index(shape) + PLACES.index(place)) % 2 == 0


@dataclass(frozen=True, kw_only=True)
class Scene:
    """One shot: who does what where, for how long, and how it was filmed."""

    shape: str
    colour: str
    place: str
    action: str
    duration_s: float
    quality: str = "clean"
    title: str = ""
    title_at_top: bool = True
    phase: float = 0.0

    @property
    def image_caption(self) -> str:
        """What one frame shows."""
        return f"{self._subject} {self._setting}"

    @property
    def caption(self) -> str:
        """What the whole scene shows."""
        return f"{self._subject} {self.action} {self._setting}"

    @property
    def _subject(self) -> str:
        adjective = "" if self.quality == "clean" else f"{self.quality} "
        return f"a {adjective}{self.colour} {self.shape}"

    @property
    def _setting(self) -> str:
        return f"{PREPOSITION[self.place]} {self.place}"


@dataclass(frozen=True, kw_only=True)
class Pose:
    """Where the hero is: centre from the left and the top in frame heights, radius likewise, angle in radians."""

    x: float
    y: float
    radius: float = HERO_RADIUS
    angle: float = 0.0
    gaze: float = 0.0


def pose_at(scene: Scene, time_s: float, aspect: float = 1.0) -> Pose:
    """Return the hero's pose `time_s` after the start of `scene` in a frame `aspect` times as wide as high."""
    done = min(max(time_s / scene.duration_s, -0.1), 1.1)
    middle = aspect / 2
    if scene.action in ("walks left", "walks right"):
        sign = 1 if scene.action == "walks right" else -1
        sway = 0.02 * math.sin(2 * math.pi * 2 * time_s)
        return Pose(x=middle + sign * 0.56 * (done - 0.5), y=GROUND + sway, gaze=sign)
    if scene.action == "jumps":
        height = 0.30 * abs(math.sin(math.pi * (time_s / 1.1 + scene.phase)))
        return Pose(x=middle, y=GROUND - height + 0.06)
    if scene.action in ("grows", "shrinks"):
        grown = done if scene.action == "grows" else 1 - done
        return Pose(x=middle, y=GROUND - 0.05, radius=HERO_RADIUS * (0.55 + 0.95 * grown))
    if scene.action == "spins":
        return Pose(x=middle, y=GROUND - 0.05, angle=2 * math.pi * (0.4 * time_s + scene.phase))
    if scene.action == "circles":
        turn = 2 * math.pi * (time_s / 2.4 + scene.phase)
        return Pose(x=middle + 0.22 * math.cos(turn), y=0.52 + 0.22 * math.sin(turn))
    return Pose(x=middle, y=GROUND - 0.05)


def draw_scene(scene: Scene, time_s: float, height: int, width: int, noise_seed: int = 0) -> Image:
    """Draw the frame of `scene` at `time_s` → (height width 3) uint8 RGB."""
    image = drawing.background(scene.place, height, width)
    pose = pose_at(scene, time_s, width / height)
    drawing.draw_hero(image, scene.shape, scene.colour, pose.x, pose.y, pose.radius, pose.angle, pose.gaze)
    if scene.title:
        drawing.draw_title(image, scene.title, scene.title_at_top)
    return drawing.degrade(image, scene.quality, noise_seed)


def speed_px_s(scene: Scene, height: int, width: int, fps: float = 16.0) -> float:
    """Mean speed of the hero's outline over the scene, in pixels per second at the given frame size."""
    times = np.arange(0, scene.duration_s, 1 / fps)
    outlines = []
    for time_s in times:
        pose = pose_at(scene, float(time_s), width / height)
        outlines.append(drawing.hero_outline(scene.shape, pose.x, pose.y, pose.radius, pose.angle))
    steps = np.linalg.norm(np.diff(np.stack(outlines), axis=0), axis=-1)
    return float(steps.mean() * fps * height)


@dataclass(frozen=True, kw_only=True)
class Episode:
    """Scenes in order; `transitions[i]` joins scene i to scene i + 1."""

    seed: int
    fps: float
    scenes: tuple[Scene, ...]
    transitions: tuple[str, ...]
    held_out: bool = False

    @property
    def first_frames(self) -> list[int]:
        """First frame of every scene: the frame of its cut, the middle of its transition."""
        starts = np.cumsum([0.0] + [scene.duration_s for scene in self.scenes[:-1]])
        return [round(float(start) * self.fps) for start in starts]

    @property
    def num_frames(self) -> int:
        return round(sum(scene.duration_s for scene in self.scenes) * self.fps)

    def scene_of_frame(self, frame: int) -> int:
        """Index of the scene whose caption is true of `frame`."""
        return int(np.searchsorted(self.first_frames, frame, side="right")) - 1


def draw_frame(episode: Episode, frame: int, height: int, width: int) -> Image:
    """Draw one frame of the episode, transitions included → (height width 3) uint8 RGB."""
    index = episode.scene_of_frame(frame)
    image = _draw_shot(episode, index, frame, height, width)
    for cut in (index, index + 1):
        if not 1 <= cut < len(episode.scenes):
            continue
        kind = episode.transitions[cut - 1]
        half = TRANSITION_S[kind] / 2 * episode.fps
        distance = frame + 0.5 - episode.first_frames[cut]
        if abs(distance) >= half:
            continue
        if kind == "fade":
            return np.round(image * (abs(distance) / half)).astype(np.uint8)
        other = _draw_shot(episode, cut - 1 if cut == index else cut, frame, height, width)
        weight = (1 + abs(distance) / half) / 2
        return np.round(weight * image + (1 - weight) * other).astype(np.uint8)
    return image


def _draw_shot(episode: Episode, index: int, frame: int, height: int, width: int) -> Image:
    time_s = (frame - episode.first_frames[index]) / episode.fps
    return draw_scene(episode.scenes[index], time_s, height, width, noise_seed=episode.seed * 100_003 + frame)


def frames(episode: Episode, height: int, width: int) -> Iterator[Image]:
    """Draw all frames in order, each (height width 3) uint8 RGB."""
    return (draw_frame(episode, frame, height, width) for frame in range(episode.num_frames))


def random_hero(rng: np.random.Generator, held_out: bool) -> tuple[str, str]:
    """Draw a (shape, colour) pair; for held-out episodes, one that is kept out of some places."""
    pairs = [(s, c) for s in SHAPES for c in COLOURS]
    if held_out:
        pairs = [pair for pair in pairs if any(is_held_out(*pair, place) for place in PLACES)]
    return pairs[int(rng.integers(len(pairs)))]


def random_place(rng: np.random.Generator, hero: tuple[str, str], held_out: bool, last_place: str = "") -> str:
    """Draw a place other than `last_place`: one that training shows the hero in, or for held-out scenes does not."""
    places = [place for place in PLACES if place != last_place and is_held_out(*hero, place) == held_out]
    return places[int(rng.integers(len(places)))]


def random_scene(
    rng: np.random.Generator, hero: tuple[str, str], held_out: bool, last_place: str = "", clean: bool = False
) -> Scene:
    """Draw a scene for `hero`; unless `clean`, one in eight has a title and one in seven is degraded."""
    place = random_place(rng, hero, held_out, last_place)
    degraded, titled = rng.random() < 1 / 7, rng.random() < 1 / 8
    return Scene(
        shape=hero[0],
        colour=hero[1],
        place=place,
        action=str(rng.choice(ACTIONS)),
        duration_s=float(np.round(rng.uniform(2.5, 4.5), 2)),
        quality=str(rng.choice(QUALITIES[1:])) if degraded and not clean else "clean",
        title=str(rng.choice(TITLES)) if titled and not degraded and not clean else "",
        title_at_top=bool(rng.random() < 0.5),
        phase=float(rng.random()),
    )


def random_episode(seed: int, fps: float = 16.0, duration_s: float = 30.0, held_out: bool = False) -> Episode:
    """Draw an episode at least `duration_s` long; the same seed gives the same episode."""
    rng = np.random.default_rng([seed, int(held_out)])
    hero = random_hero(rng, held_out)
    scenes: list[Scene] = []
    while sum(scene.duration_s for scene in scenes) < duration_s:
        scenes.append(random_scene(rng, hero, held_out, scenes[-1].place if scenes else ""))
    kinds = rng.choice(TRANSITIONS, size=len(scenes) - 1, p=(0.7, 0.15, 0.15))
    return Episode(
        seed=seed,
        fps=fps,
        scenes=tuple(scenes),
        transitions=tuple(str(kind) for kind in kinds),
        held_out=held_out,
    )
