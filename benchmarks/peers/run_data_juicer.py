"""Runs one operator of data-juicer 1.6.1 on one video, inside its environment; called by benchmarks.one_pass.

ENV/bin/python -m benchmarks.peers.run_data_juicer split|detect|motion VIDEO → one line of JSON: what the call cost and
found

`split` is VideoSplitBySceneMapper as it comes (ContentDetector, 27, 15 frames; pieces re-encoded by ffmpeg, its way).
`detect` is the part of it that finds the scenes. `motion` is VideoMotionScoreFilter at 2 fps, short side 16 px.
Importing the package is not counted.
"""

import json
import sys
import tempfile
from collections.abc import Callable

from benchmarks import measured


def split(video: str, folder: str) -> None:
    """Number of scenes."""
    from data_juicer.ops.mapper.video_split_by_scene_mapper import VideoSplitBySceneMapper

    operator = VideoSplitBySceneMapper(save_dir=folder)
    measured.call(lambda: len(operator.process_single({"videos": [video], "text": ""})["videos"]))


def detect(video: str, folder: str) -> None:
    """Number of scenes."""
    import scenedetect

    detector = scenedetect.ContentDetector(27.0, 15)
    measured.call(lambda: len(scenedetect.detect(video, detector, start_in_scene=True)))


def motion(video: str, folder: str) -> None:
    """Mean magnitude of flow in px at 16 px."""
    from data_juicer.ops.filter.video_motion_score_filter import VideoMotionScoreFilter
    from data_juicer.utils.constant import Fields, StatsKeys

    operator = VideoMotionScoreFilter(size=16)
    sample: dict = {"videos": [video], "text": "", Fields.stats: {}}
    measured.call(lambda: float(operator.compute_stats_single(sample)[Fields.stats][StatsKeys.video_motion_score][0]))


OPERATORS: dict[str, Callable[[str, str], None]] = {"split": split, "detect": detect, "motion": motion}

if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        OPERATORS[sys.argv[1]](sys.argv[2], folder)
        print(json.dumps(measured.last()))
