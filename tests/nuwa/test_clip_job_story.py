"""What a story may not say where a clip is made in one pass."""

from pathlib import Path

import pytest

from nuwa.generate import clip_job
from nuwa.generate.config import GenerateConfig
from nuwa.generate.story import GivenImage, Scene, Story
from nuwa.hierarchy import NuwaError


@pytest.mark.parametrize(
    ("story", "remedy"),
    [
        (Story((Scene("a", 0.0, 1.0),), given=(GivenImage(Path("a.png"), frame=0),)), "--mode image --image FILE"),
        (Story((Scene("a", 0.0, 1.0, {0: "b"}),)), "a clip has one level"),
    ],
)
def test_what_a_clip_does_not_read_of_a_story_is_refused(
    story: Story, remedy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clip_job, "stored_stunet", lambda _: None)
    monkeypatch.setattr(clip_job, "told_story", lambda *_: (story, 4.0))
    config = GenerateConfig(model=tmp_path, story=tmp_path / "s.yaml", output=tmp_path / "o.mp4", steps=(1,))
    with pytest.raises(NuwaError, match=remedy):
        clip_job.prepare(config)
