"""Digests of clips: the same in every container, different for every other picture."""

from pathlib import Path

import pytest

from tests.curation.filmed import analysed, pack, remuxed, shot

B_FRAMES = {"crf": "18", "bf": "2", "g": "25"}


def digests(path: Path) -> list[str]:
    return [str(clip.row["content_digest"]) for clip in analysed(path).clips]


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("film") / "x.mp4"
    return pack(path, shot(0, 40) + shot(1, 40) + shot(0, 40), [40 * k for k in range(120)], options=B_FRAMES)


@pytest.mark.parametrize("name", ["x.mkv", "x.mov", "x.ts"])
def test_another_container_is_the_same_film(film: Path, tmp_path: Path, name: str) -> None:
    assert digests(remuxed(film, tmp_path / name)) == digests(film)


def test_another_encoding_and_other_shots_are_not(film: Path, tmp_path: Path) -> None:
    other = pack(tmp_path / "x.mp4", shot(0, 40) + shot(1, 40), [40 * k for k in range(80)], options={"crf": "30"})
    found = digests(film) + digests(other)
    assert len(found) == len(set(found)) == 5
    assert all(len(digest) == 32 for digest in found)


def test_the_same_shot_elsewhere_has_the_same_digest(tmp_path: Path) -> None:
    """Lossless, so that what stands before a shot does not change its pictures."""
    lossless = {"crf": "0", "bf": "0", "g": "1", "preset": "ultrafast"}
    first = pack(tmp_path / "a.mp4", shot(0, 40) + shot(1, 40), [40 * k for k in range(80)], options=lossless)
    second = pack(tmp_path / "b.mkv", shot(2, 30) + shot(1, 40), [33 * k for k in range(70)], options=lossless)
    assert digests(first)[1] == digests(second)[1]
    assert digests(first)[0] != digests(second)[0]
