"""The figures about stories: near 1 for frames that show their prompts, chance for the prompts of other stories."""

import json
from pathlib import Path

import pytest

from demo import evaluate_stories, probe, world

SHIPPED = Path(__file__).parents[2] / "demo" / "weights" / "pipeline"


def test_stories_are_held_out_and_drawn_frames_reach_one_and_the_control_chance() -> None:
    stories = [evaluate_stories.draw_story(seed, 60, 4.0) for seed in range(8)]
    readings = []
    for story in stories:
        assert len(story) == 60
        assert all(world.is_held_out(scene.shape, scene.colour, scene.place) for scene in story)
        # the middle of every scene stands for all its frames
        images = {scene: world.draw_scene(scene, scene.duration_s / 2, 32, 32) for scene in dict.fromkeys(story)}
        seen = {scene: probe.read_frame(image) for scene, image in images.items()}
        readings.append([seen[scene] for scene in story])
    own = evaluate_stories.mean_over([evaluate_stories.agreement(r, s) for r, s in zip(readings, stories, strict=True)])
    assert own["colour"] == own["place"] == 1
    pairs = [(i, j) for i in range(8) for j in range(8) if i != j]
    others = evaluate_stories.mean_over([evaluate_stories.agreement(readings[i], stories[j]) for i, j in pairs])
    chance = evaluate_stories.mean_over([evaluate_stories.agreement(stories[i], stories[j]) for i, j in pairs])
    for measure in ("colour", "place"):
        assert others[measure] == chance[measure] < 0.4


def test_frames_without_a_hero_count_as_wrong() -> None:
    story = evaluate_stories.draw_story(0, 10, 4.0)
    empty = [probe.Reading(place=scene.place) for scene in story]
    assert evaluate_stories.agreement(empty, story) == {"colour": 0, "place": 1, "shape": 0}


@pytest.mark.slow
def test_shipped_weights_show_their_stories(tmp_path: Path) -> None:
    config = evaluate_stories.EvaluateStories(
        model=SHIPPED, output=tmp_path / "stories.json", stories=4, frames=106, steps=10, seed=99
    )
    evaluate_stories.main(config)
    figures = json.loads(config.output.read_text())
    for measure in ("colour", "place"):
        assert figures["own prompts"][measure] >= 0.8
        assert figures["prompts of other stories"][measure] < 0.5
