"""The toon world: episodes repeat by seed, truth agrees with pixels, held-out combinations stay out."""

import numpy as np
import pytest

from demo import drawing, footage, world


def episodes(held_out: bool) -> list[world.Episode]:
    return [world.random_episode(seed, held_out=held_out) for seed in range(40)]


def test_the_same_seed_gives_the_same_frames_and_another_gives_others() -> None:
    first, again, other = (world.random_episode(seed) for seed in (3, 3, 4))
    assert first == again
    assert first != other
    assert np.array_equal(world.draw_frame(first, 100, 48, 64), world.draw_frame(again, 100, 48, 64))


def test_an_episode_has_one_hero_returning_places_and_every_kind_of_cut() -> None:
    kinds = set()
    for episode in episodes(held_out=False):
        assert len({(scene.shape, scene.colour) for scene in episode.scenes}) == 1
        assert all(a.place != b.place for a, b in zip(episode.scenes, episode.scenes[1:], strict=False))
        assert episode.num_frames >= 30 * episode.fps - 1
        kinds |= set(episode.transitions)
    places = [scene.place for scene in world.random_episode(0, duration_s=120).scenes]
    assert len(places) > len(set(places))
    assert kinds == set(world.TRANSITIONS)


def test_held_out_combinations_never_occur_in_training_and_fill_held_out_episodes() -> None:
    for held_out in (False, True):
        for episode in episodes(held_out):
            for scene in episode.scenes:
                assert world.is_held_out(scene.shape, scene.colour, scene.place) == held_out


def test_every_pair_of_properties_is_seen_in_training() -> None:
    seen = [
        (shape, colour, place)
        for shape in world.SHAPES
        for colour in world.COLOURS
        for place in world.PLACES
        if not world.is_held_out(shape, colour, place)
    ]
    assert len(seen) == 216 - 36
    for first, second in ((0, 1), (0, 2), (1, 2)):
        assert len({(combination[first], combination[second]) for combination in seen}) == 36


def make_scene(action: str = "walks right", quality: str = "clean", title: str = "") -> world.Scene:
    return world.Scene(
        shape="star", colour="red", place="snow", action=action, duration_s=4, quality=quality, title=title
    )


@pytest.mark.parametrize("action", world.ACTIONS)
def test_speed_is_the_speed_of_the_drawn_outline(action: str) -> None:
    scene = make_scene(action)
    speed = world.speed_px_s(scene, 128, 128)
    if action == "stands still":
        assert speed == 0
    elif action in ("grows", "shrinks"):
        mean_radius = np.linalg.norm(drawing.unit_outline("star"), axis=1).mean()
        assert speed == pytest.approx(0.95 * world.HERO_RADIUS * mean_radius / 4 * 128, rel=1e-3)
    elif action == "spins":
        mean_radius = np.linalg.norm(drawing.unit_outline("star"), axis=1).mean() * world.HERO_RADIUS
        assert speed == pytest.approx(2 * np.pi * 0.4 * mean_radius * 128, rel=0.01)
    elif action == "circles":
        assert speed == pytest.approx(2 * np.pi * 0.22 / 2.4 * 128, rel=0.01)
    else:
        assert speed > 0.56 / 4 * 128


def test_captions_name_what_is_drawn() -> None:
    scene = make_scene(quality="blurry")
    assert scene.caption == "a blurry red star walks right in the snow"
    assert scene.image_caption == "a blurry red star in the snow"


def test_a_hard_cut_changes_the_picture_at_its_frame_and_a_fade_is_black_in_its_middle() -> None:
    scenes = (
        make_scene("stands still"),
        world.Scene(shape="star", colour="red", place="forest", action="stands still", duration_s=4),
    )
    for kind in world.TRANSITIONS:
        episode = world.Episode(seed=0, fps=16, scenes=scenes, transitions=(kind,))
        cut = episode.first_frames[1]
        frames = np.stack(list(world.frames(episode, 32, 32))).astype(int)
        change = np.abs(np.diff(frames, axis=0)).mean(axis=(1, 2, 3))
        if kind == "hard":
            assert change.argmax() == cut - 1
            assert (change > 0).sum() == 1
        elif kind == "fade":
            assert frames[cut - 1 : cut + 1].mean() < 20
        else:
            assert 8 <= (change > 0).sum() <= 14
            assert frames.mean(axis=(1, 2, 3)).min() > 60


def test_drawing_is_antialiased_at_any_size() -> None:
    scene = make_scene("jumps")
    small = world.draw_scene(scene, 1.0, 32, 48).astype(float)
    large = world.draw_scene(scene, 1.0, 256, 384).astype(float)
    reduced = large.reshape(32, 8, 48, 8, 3).mean(axis=(1, 3))
    assert np.abs(small - reduced).mean() < 6


def test_title_box_holds_the_letters() -> None:
    plain = world.draw_scene(make_scene("stands still"), 0, 128, 128).astype(int)
    titled = world.draw_scene(make_scene("stands still", title="NEWS"), 0, 128, 128).astype(int)
    ys, xs = np.nonzero(np.abs(titled - plain).sum(axis=2))
    left, top, right, bottom = drawing.title_box("NEWS", True, 128, 128)
    assert abs(int(xs.min()) - left) <= 8
    assert abs(int(xs.max()) - right) <= 8
    assert abs(int(ys.max()) - bottom) <= 8
    assert ys.min() >= top - 8


def test_degradations_do_what_their_names_say() -> None:
    clean, blurry, noisy, faded = (
        world.draw_scene(make_scene("stands still", quality), 0, 128, 128).astype(float) for quality in world.QUALITIES
    )

    def sharpness(image: np.ndarray) -> float:
        return float(np.abs(np.diff(image, axis=1)).mean())

    assert sharpness(blurry) < 0.8 * sharpness(clean)
    assert sharpness(noisy) > 2 * sharpness(clean)
    assert faded.std() == pytest.approx(0.45 * clean.std(), rel=0.02)


def test_truth_matches_the_episode() -> None:
    episode = world.random_episode(5)
    truth = footage.truth_of(episode, 128)
    captions, scenes, cuts = truth["caption_of_frame"], truth["scenes"], truth["cuts"]
    assert isinstance(captions, list)
    assert isinstance(scenes, list)
    assert isinstance(cuts, list)
    assert len(captions) == truth["num_frames"] == scenes[-1]["end_frame"]
    for cut in cuts:
        assert captions[cut["frame"]] != captions[cut["frame"] - 1]
    for scene in scenes:
        assert bool(scene["text_boxes"]) == bool(scene["title"])
