"""Runs video2dataset 1.3.0's cut detection on one video, inside its environment; called by benchmarks.one_pass.

ENV/bin/python -m benchmarks.peers.run_video2dataset VIDEO FPS,FPS → one line of JSON: what the call cost and found

CutDetectionSubsampler always looks at the native rate, then decodes again for every further rate. The package's own
__init__ files import torch, transformers and the rest, of which cut detection uses nothing: they are passed by.
Importing is not counted.
"""

import importlib
import importlib.metadata
import json
import sys
import types
from pathlib import Path

from benchmarks import measured


def cut_detection() -> types.ModuleType:
    """The one module of video2dataset that is measured."""
    root = Path(str(importlib.metadata.distribution("video2dataset").locate_file("video2dataset")))
    for name, folder in (("video2dataset", root), ("video2dataset.subsamplers", root / "subsamplers")):
        package = types.ModuleType(name)
        package.__path__ = [str(folder)]
        sys.modules[name] = package
    return importlib.import_module("video2dataset.subsamplers.cut_detection_subsampler")


def cuts(video: bytes, rates: list[float]) -> None:
    """Scenes per rate."""
    subsampler = cut_detection().CutDetectionSubsampler(framerates=rates)

    def detect() -> dict[str, int]:
        _, found, error = subsampler({"video": [video]})
        if error:
            raise RuntimeError(error)
        return {name: len(spans) for name, spans in found.items() if name != "original_fps"}

    measured.call(detect)


if __name__ == "__main__":
    cuts(Path(sys.argv[1]).read_bytes(), [float(rate) for rate in sys.argv[2].split(",")])
    print(json.dumps(measured.last()))
