"""The toon world as evaluation sees it: what a scene shows, read from its frames (`nuwa.evaluate.scene_probe`)."""

from collections.abc import Sequence

import numpy as np

from demo import world
from demo.action import LEAST_FRAMES, commonest, read_action
from demo.probe import Image, Reading, read_frame
from nuwa.evaluate.scene_probe import Scene, SceneProbe, stretches


def read_scene(frames: Image) -> dict[str, str | float]:
    """Place, colour, shape and action of one scene, (t h w 3) uint8 RGB; of the first three what most frames show.

    hero_seen: share of the frames that show a hero. What cannot be read is missing.
    """
    return scene_of([read_frame(frame) for frame in frames], frames.shape[1])


def scene_of(readings: Sequence[Reading], native_height: int) -> dict[str, str | float]:
    """The same from the readings of the scene's frames, `native_height` px high."""
    words = {
        "place": commonest([reading.place for reading in readings]),
        "colour": commonest([reading.colour for reading in readings]),
        "shape": commonest([reading.shape for reading in readings]),
        "action": read_action(readings, native_height),
    }
    hero_seen = float(np.mean([reading.colour is not None for reading in readings]))
    return {name: word for name, word in words.items() if word is not None} | {"hero_seen": hero_seen}


def scenes_of(readings: Sequence[Reading], prompts: Sequence[str], native_height: int) -> tuple[Scene, ...]:
    """What `read_scenes` gives by `TOON`, from readings of all frames of a video."""
    return tuple(
        Scene(
            numbers.start,
            len(numbers),
            prompts[numbers.start],
            scene_of(readings[numbers.start : numbers.stop], native_height),
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
