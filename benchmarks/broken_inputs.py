"""Inputs that are broken in the ways footage is: cut off, lying headers, no video, other things under a video's name.

Every file follows from a film and a number alone, so two runs see the same bytes.
"""

import itertools
import random
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import numpy as np

REAL = (
    "decord/corrupted.mp4",
    "derived/truncated_60pct_structuralize.mp4",
    "derived/truncated_60pct_pancake.mkv",
    "moviepy/no_duration.webm",
    "moviepy/-video-with-dash-.mp4",
    "torchcodec/var_fps_video.mp4",
    "moviepy/fire2.mp4",
)
"""Damaged and odd files of the real media; they come first."""
CONTAINERS = ("mp4", "mkv", "ts", "avi", "mov", "flv")


def broken_inputs(folder: Path, film: Path, count: int, media: Path | None) -> list[tuple[str, Path]]:
    """`count` pairs (what is wrong, path), a path that does not exist among them; made below `folder`.

    film: an H.264 MP4, header first. media: folder of real media, or null to do without.
    """
    folder.mkdir(parents=True, exist_ok=True)
    real = [(f"real: {name}", media / name) for name in REAL if media is not None and (media / name).is_file()]
    return list(itertools.islice(itertools.chain(real, _made(folder, film)), count))


def _made(folder: Path, film: Path) -> Iterator[tuple[str, Path]]:
    """One of each kind, then further ones with other seeds, without end."""
    for number in itertools.count():
        for kind, (suffix, make) in KINDS.items():
            path = folder / f"{kind.replace(' ', '_')}_{number}.{suffix}"
            if not path.exists():
                make(path, film, number)
            yield kind, path
        for container in CONTAINERS:
            path = folder / f"fuzzed_{number}.{container}"
            if not path.exists():
                fuzzed(path, film, number)
            yield f"fuzzed {container}", path


def fuzzed(path: Path, film: Path, number: int) -> None:
    """The film in the container of `path`'s suffix with 1 in 2000 bytes changed."""
    remuxed(path, film)
    data, random_bytes = bytearray(path.read_bytes()), random.Random(number)
    for _ in range(max(8, len(data) // 2000)):
        data[random_bytes.randrange(len(data))] = random_bytes.randrange(256)
    path.write_bytes(data)


def remuxed(path: Path, film: Path) -> None:
    """The packets of the film in another container; AVI, which cannot take them, gets MPEG-4 Part 2."""
    if path.suffix == ".avi":
        return _encoded_avi(path, film)
    with av.open(str(film)) as source, av.open(str(path), "w", format=_format(path)) as copy:
        stream = source.streams.video[0]
        copied = copy.add_stream_from_template(stream)
        for packet in source.demux(stream):
            if packet.dts is not None:
                packet.stream = copied
                copy.mux(packet)
    return None


def _encoded_avi(path: Path, film: Path) -> None:
    with av.open(str(film)) as source, av.open(str(path), "w", format="avi") as copy:
        original = source.streams.video[0]
        stream = copy.add_stream("mpeg4", rate=original.average_rate)
        stream.width, stream.height, stream.pix_fmt = original.width, original.height, "yuv420p"
        stream.codec_context.thread_count = 1
        for number, picture in enumerate(source.decode(original)):
            picture.pts, picture.time_base, picture.pict_type = number, 1 / stream.codec_context.framerate, 0
            copy.mux(stream.encode(picture))
        copy.mux(stream.encode())


def _format(path: Path) -> str:
    return {"mkv": "matroska", "ts": "mpegts"}.get(path.suffix[1:], path.suffix[1:])


def _truncated(path: Path, film: Path, number: int) -> None:
    """The first part of the film, its header whole."""
    data = film.read_bytes()
    path.write_bytes(data[: int(len(data) * (0.9, 0.5, 0.7)[number % 3])])


def _without_index(path: Path, film: Path, number: int) -> None:
    """An MP4 whose index, at the end, never got written."""
    remuxed(path, film)
    data = path.read_bytes()
    path.write_bytes(data[: data.rindex(b"moov") - 4])


def _truncated_stream(path: Path, film: Path, number: int) -> None:
    """A container without index, cut in the middle of a packet."""
    remuxed(path, film)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * 0.6) + number])


def _patched(box: bytes, offset: int, value: int) -> Callable[[Path, Path, int], None]:
    """The film with the 32-bit number `offset` bytes behind the name of its first `box` replaced."""

    def make(path: Path, film: Path, number: int) -> None:
        data = bytearray(film.read_bytes())
        place = data.index(box) + 4 + offset
        data[place : place + 4] = struct.pack(">I", value + number)
        path.write_bytes(data)

    return make


def _nothing(path: Path, film: Path, number: int) -> None:
    path.touch()


def _text(path: Path, film: Path, number: int) -> None:
    path.write_text("<html><body>404: this film is not here any more</body></html>\n" * (number + 1))


def _noise(path: Path, film: Path, number: int) -> None:
    path.write_bytes(np.random.default_rng(number).bytes(40_000))


def _zeros(path: Path, film: Path, number: int) -> None:
    path.write_bytes(bytes(40_000 + number))


def _still(path: Path, film: Path, number: int) -> None:
    """A PNG picture."""
    image = np.random.default_rng(number).integers(0, 255, (48, 64, 3), dtype=np.uint8)
    _encode_one(path, image, "png", "image2")


def _encode_one(path: Path, image: np.ndarray, codec: str, container: str) -> None:
    with av.open(str(path), "w", format=container, options={"update": "1"}) as output:
        stream = output.add_stream(codec, rate=1)
        stream.height, stream.width, stream.pix_fmt = *image.shape[:2], "rgb24"
        output.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        output.mux(stream.encode())


def _sound(path: Path, film: Path, number: int) -> None:
    """Two seconds of a tone, no picture."""
    with av.open(str(path), "w", format=_format(path)) as output:
        stream = output.add_stream("aac", rate=16_000)
        stream.layout = "mono"
        tone = np.sin(np.arange(32_000) * (0.1 + number / 100)).astype(np.float32)
        for start in range(0, len(tone), 1024):
            block = np.zeros((1, 1024), np.float32)
            block[0, : len(tone[start : start + 1024])] = tone[start : start + 1024]
            frame = av.AudioFrame.from_ndarray(block, format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 16_000, start
            output.mux(stream.encode(frame))
        output.mux(stream.encode())


def _missing(path: Path, film: Path, number: int) -> None:
    """In the list, but not on disk."""


def _folder(path: Path, film: Path, number: int) -> None:
    path.mkdir()


def _lost_link(path: Path, film: Path, number: int) -> None:
    path.symlink_to(path.with_name(f"gone_{number}.mp4"))


def _same_bytes(path: Path, film: Path, number: int) -> None:
    path.write_bytes(film.read_bytes())


def _time_goes_back(path: Path, film: Path, number: int) -> None:
    """The film twice, one after another, in one transport stream: the clock starts again."""
    remuxed(path, film)
    path.write_bytes(path.read_bytes() * 2)


KINDS: dict[str, tuple[str, Callable[[Path, Path, int], None]]] = {
    "truncated": ("mp4", _truncated),
    "without index": ("mp4", _without_index),
    "truncated stream": ("mkv", _truncated_stream),
    "truncated transport": ("ts", _truncated_stream),
    "header states another length": ("mp4", _patched(b"mdhd", 16, 7)),
    "header states too many frames": ("mp4", _patched(b"stts", 8, 100_000)),
    "header states too large samples": ("mp4", _patched(b"stsz", 12, 50_000_000)),
    "zero bytes": ("mp4", _nothing),
    "text": ("mp4", _text),
    "noise": ("mkv", _noise),
    "all zeros": ("avi", _zeros),
    "still picture": ("mp4", _still),
    "sound only": ("mp4", _sound),
    "missing": ("mp4", _missing),
    "folder": ("mp4", _folder),
    "link to nothing": ("mp4", _lost_link),
    "same bytes": ("mp4", _same_bytes),
    "time goes back": ("ts", _time_goes_back),
}
"""What is wrong → suffix, how to make it from the film and a number."""
