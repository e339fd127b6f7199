"""The toon world as evaluation sees it: what a scene shows, read from its frames (`nuwa.evaluate.scene_probe`)."""

from collections.abc import Sequence

import numpy as np

from demo import world
from demo.action import LEAST_FRAMES, read_action, read_shape
from demo.probe import Image, Reading, read_frame
from nuwa.evaluate.scene_probe import Scene, SceneProbe, stretches


def read_scene(frames: Image) -> dict[str, str | float]:
    """Place and colour that most frames show, shape and action of all frames together, (t h w 3) uint8 RGB.

    hero_seen: share of the frames that show a hero. What cannot be read is missing.
    """
    return scene_of([read_frame(frame) for frame in frames])


def scene_of(readings: Sequence[Reading]) -> dict[str, str | float]:
    """The same from the readings of the scene's frames."""
    action = read_action(readings)
    words = {
        "place": _commonest([reading.place for reading in readings]),
        "colour": _commonest([reading.colour for reading in readings]),
        "shape": read_shape(readings, action),
        "action": action,
    }
    hero_seen = float(np.mean([reading.colour is not None for reading in readings]))
    return {name: word for name, word in words.items() if word is not None} | {"hero_seen": hero_seen}


def _commonest(words: Sequence[str | None]) -> str | None:
    """The word that occurs most often, None aside; of several the first. None where there is no word."""
    known = [word for word in words if word is not None]
    return max(dict.fromkeys(known), key=known.count, default=None)


def scenes_of(readings: Sequence[Reading], prompts: Sequence[str]) -> tuple[Scene, ...]:
    """What `read_scenes` gives by `TOON`, from readings of all frames of a video."""
    return tuple(
        Scene(
            numbers.start,
            len(numbers),
            prompts[numbers.start],
            scene_of(readings[numbers.start : numbers.stop]),
        )
        for numbers in stretches(prompts)
        if len(numbers) >= LEAST_FRAMES
    )


TOON = SceneProbe(
    name="toon",
    read=read_scene,
    choices={"place": world.PLACES, "colour": world.COLOURS, "shape": world.SHAPES, "action": world.ACTIONS},
    kept={"hero_kept": ("colour", "shape")},
    returning={"places_returned_to": "place"},
    least_frames=LEAST_FRAMES,
)
