"""Small films with known truth: moving textures in shots, packed with times and flags of the test's choice."""

from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np

from curation.analyse import VideoAnalysis, decode_pass
from curation.config import CurationConfig
from curation.decode_config import CutDetectorConfig, DecodeConfig, MotionConfig, SceneConfig
from curation.video import content_hash

HARD_CUTS_ONLY = CurationConfig(
    scenes=SceneConfig(detectors=(CutDetectorConfig(),), min_scene_frames=5), motion=MotionConfig(short_side_px=48)
)


def shot(seed: int, num: int, height: int = 64, width: int = 96) -> list[np.ndarray]:
    """`num` frames (h w 3) uint8 of a coloured texture that drifts by a pixel a frame."""
    blocks = np.random.default_rng(seed).integers(30, 225, (8, 64, 3), dtype=np.uint8)
    wide = cv2.resize(blocks, (8 * width, height), interpolation=cv2.INTER_LINEAR)
    return [np.ascontiguousarray(wide[:, k : k + width]) for k in range(num)]


def pack(
    path: Path,
    images: Iterable[np.ndarray],
    times_ms: Sequence[int],
    codec: str = "libx264",
    options: dict[str, str] | None = None,
) -> Path:
    """Write frames with these presentation times; B-frames and key frames as `options` say."""
    with av.open(str(path), "w") as container:
        stream: av.VideoStream | None = None
        for image, time_ms in zip(images, times_ms, strict=True):
            if stream is None:
                stream = container.add_stream(codec, rate=25, options=options or {"crf": "10", "bf": "0", "g": "12"})
                stream.height, stream.width, stream.pix_fmt = *image.shape[:2], "yuv420p"
                stream.codec_context.time_base = Fraction(1, 1000)
            picture = av.VideoFrame.from_ndarray(image, format="rgb24")
            picture.pts, picture.time_base = time_ms, Fraction(1, 1000)
            container.mux(stream.encode(picture))
        assert stream is not None
        container.mux(stream.encode())
    return path


def remuxed(path: Path, other: Path) -> Path:
    """The packets of `path` in another container."""
    with av.open(str(path)) as source, av.open(str(other), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    return other


def analysed(path: Path, config: CurationConfig = HARD_CUTS_ONLY) -> VideoAnalysis:
    """The decode pass in this process; a child costs a second to start."""
    digest, _ = content_hash(str(path))
    return decode_pass({"source_uri": str(path), "source_sha256": digest}, config)


def with_small_frames(config: CurationConfig = HARD_CUTS_ONLY) -> CurationConfig:
    """The same with key frames smaller than the films, so that they are reduced."""
    decode = DecodeConfig(key_frame_px=48, grid_frame_px=24, max_attempts=2)
    return CurationConfig(decode=decode, scenes=config.scenes, motion=config.motion)
