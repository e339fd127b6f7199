"""Cheap footage for jobs: short toon episodes, and any number of inputs with different bytes from a few of them."""

import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path

import av

from curation.video import write_video
from demo import world

FPS = 16.0


def toon_films(folder: Path, count: int, duration_s: float, size_px: int = 128, first_seed: int = 50_000) -> list[Path]:
    """`count` different episodes of about `duration_s`, filmed where they are missing."""
    folder.mkdir(parents=True, exist_ok=True)
    return [
        film(folder / f"toon_{seed}.mp4", seed, duration_s, size_px) for seed in range(first_seed, first_seed + count)
    ]


def film(path: Path, seed: int, duration_s: float, size_px: int) -> Path:
    """One episode; its last scene is cut short at `duration_s`."""
    if not path.is_file():
        episode = _shortened(world.random_episode(seed, FPS, duration_s), duration_s)
        write_video(path, world.frames(episode, size_px, size_px), FPS, gop_frames=48)
    return path


def _shortened(episode: world.Episode, duration_s: float) -> world.Episode:
    *others, last = episode.scenes
    left_s = max(1.5, duration_s - sum(scene.duration_s for scene in others))
    return dataclasses.replace(episode, scenes=(*others, dataclasses.replace(last, duration_s=left_s)))


def many_inputs(films: Sequence[Path], folder: Path, count: int) -> list[Path]:
    """`count` files that play like `films` in turn, each with bytes of its own, so that none is a duplicate.

    A trailing `free` box, which players skip, carries the number.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"input_{number:05d}.mp4" for number in range(count)]
    for number, path in enumerate(paths):
        shutil.copyfile(films[number % len(films)], path)
        with path.open("ab") as file:
            file.write(free_box(number))
    return paths


def free_box(number: int) -> bytes:
    """An ISO base media `free` box of 16 bytes that holds `number`."""
    return (16).to_bytes(4, "big") + b"free" + number.to_bytes(8, "big")


def looped(source: Path, duration_s: float, path: Path) -> Path:
    """A film of at least `duration_s` made by repeating the packets of `source`: nothing is encoded, so an hour costs
    seconds. `source` must hold one video stream that starts with a key frame.
    """
    with av.open(str(source)) as original:
        stream = original.streams.video[0]
        packets = [packet for packet in original.demux(stream) if packet.dts is not None]
        kept = [(bytes(packet), packet.pts, packet.dts, packet.is_keyframe) for packet in packets]
        lap = max(packet.pts + packet.duration for packet in packets) - min(packet.pts for packet in packets)
        laps = -(-duration_s // float(lap * stream.time_base))
        unfinished = path.with_name(f"_{path.name}")
        with av.open(str(unfinished), "w", format=path.suffix.lstrip(".")) as copy:
            copied = copy.add_stream_from_template(stream)
            for turn in range(int(laps)):
                for data, pts, dts, is_keyframe in kept:
                    packet = av.Packet(data)
                    packet.pts, packet.dts, packet.time_base = pts + turn * lap, dts + turn * lap, stream.time_base
                    packet.is_keyframe, packet.stream = is_keyframe, copied
                    copy.mux(packet)
    unfinished.replace(path)
    return path
