"""The probe reads heroes and places back from the pixels of frames it has never seen."""

import cv2
import numpy as np
import pytest

from demo import probe, world


@pytest.mark.parametrize(("size_px", "least_shapes_right"), [(32, 0.97), (128, 0.99)])
def test_probe_reads_clean_frames(size_px: int, least_shapes_right: float) -> None:
    rng = np.random.default_rng(1)
    right, distances = [], []
    for index in range(120):
        held_out = index % 2 == 0
        scene = world.random_scene(rng, world.random_hero(rng, held_out), held_out, clean=True)
        time_s = float(rng.uniform(0, scene.duration_s))
        drawn = world.draw_scene(scene, time_s, 128, 128)
        reading = probe.read_frame(cv2.resize(drawn, (size_px, size_px), interpolation=cv2.INTER_AREA))
        pose = world.pose_at(scene, time_s)
        right.append((reading.colour == scene.colour, reading.place == scene.place, reading.shape == scene.shape))
        assert reading.x is not None
        assert reading.y is not None
        distances.append(np.hypot(reading.x - pose.x, reading.y - pose.y))
    colours, places, shapes = np.mean(right, axis=0)
    assert colours == 1
    assert places == 1
    assert shapes >= least_shapes_right
    assert np.mean(distances) < 0.05


def test_an_empty_place_has_no_hero() -> None:
    for place in world.PLACES:
        reading = probe.read_frame(world.drawing.background(place, 64, 64))
        assert reading == probe.Reading(place=place)


def test_noise_is_not_read_as_a_place_with_a_hero_of_its_own() -> None:
    grey = np.full((64, 64, 3), 128, np.uint8)
    assert probe.read_frame(grey).colour is None
