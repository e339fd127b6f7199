"""Frames into one H.264 file or one GIF (PyAV), one at a time: memory holds what the encoder looks ahead."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.filter import Graph


class Mp4File:
    """H.264, yuv420p, at a quality that keeps flat colours; the header stands in front, for the web."""

    def __init__(self, path: Path, fps: float) -> None:
        self.rate = exact_rate(fps)
        self.container = av.open(str(path), "w", format="mp4", options={"movflags": "faststart"})
        # x264's macroblock tree reads memory it never wrote where frames are small; the file would not repeat.
        options = {"crf": "14", "preset": "medium", "x264-params": "mbtree=0"}
        self.stream = self.container.add_stream("libx264", rate=self.rate, options=options)
        self.stream.pix_fmt = "yuv420p"
        self.sized = False

    def write(self, image: np.ndarray) -> None:
        """Append one image, uint8 (h w 3) RGB of even size."""
        if not self.sized:
            self.stream.height, self.stream.width = image.shape[:2]
            self.sized = True
        self.container.mux(self.stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))

    def finish(self) -> None:
        """Write what the encoder holds back, and the header."""
        self.container.mux(self.stream.encode(None))
        self.container.close()

    def abandon(self) -> None:
        """Let go of a file that will not be finished."""
        self.container.close()


class GifFile:
    """A GIF with a palette of 256 colours per frame, chosen from that frame.

    One palette for all would need all frames first. The dither pattern is fixed, so still areas do not shimmer.
    """

    def __init__(self, path: Path, fps: float) -> None:
        self.rate = exact_rate(fps)
        self.container = av.open(str(path), "w", format="gif")
        self.stream = self.container.add_stream("gif", rate=self.rate)
        self.stream.pix_fmt = "pal8"
        self.graph: Graph | None = None
        self.count = 0

    def write(self, image: np.ndarray) -> None:
        """Append one image, uint8 (h w 3) RGB."""
        if self.graph is None:
            self.stream.height, self.stream.width = image.shape[:2]
            self.graph = _palette_graph(image.shape[1], image.shape[0], 1 / self.rate)
        frame = av.VideoFrame.from_ndarray(image, format="rgb24")
        frame.pts, frame.time_base = self.count, 1 / self.rate
        self.graph.push(frame)
        self.container.mux(self.stream.encode(self.graph.pull()))
        self.count += 1

    def finish(self) -> None:
        """Write what the encoder holds back."""
        self.container.mux(self.stream.encode(None))
        self.container.close()

    def abandon(self) -> None:
        """Let go of a file that will not be finished."""
        self.container.close()


def exact_rate(fps: float) -> Fraction:
    """Frames per second as a ratio of small numbers: 29.97 is 2997/100, 30000/1001 comes back as itself."""
    return Fraction(fps).limit_denominator(1001)


def _palette_graph(width: int, height: int, time_base: Fraction) -> Graph:
    """rgb24 in, pal8 out, one frame for each frame."""
    graph = Graph()
    source = graph.add_buffer(width=width, height=height, format=av.VideoFormat("rgb24"), time_base=time_base)
    split, palette = graph.add("split"), graph.add("palettegen", "stats_mode=single")
    mapped = graph.add("paletteuse", "new=1:dither=bayer:bayer_scale=4")
    source.link_to(split)
    split.link_to(palette, 0, 0)
    split.link_to(mapped, 1, 0)
    palette.link_to(mapped, 0, 1)
    mapped.link_to(graph.add("buffersink"))
    graph.configure()
    return graph
