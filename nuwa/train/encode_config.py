"""What a user may ask of encoding: which windows, by which pipeline, where to, on what. No torch here."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from nuwa.data.whole_files import LatentsError

Levels = Literal["global", "local", "all"]


@dataclass(frozen=True, kw_only=True)
class EncodeConfig:
    stage: str
    """What the latents are for: mtd (windows, their conditions) or image (single frames)."""
    dataset: Path
    """Dataset folder written by pipelines.curate."""
    model: Path
    """Folder whose autoencoder and text encoder encode: what will be the --init of the training."""
    output: Path
    """Folder of latents, on a cluster one that all nodes share; what others have left there stays and is used."""
    length: int | None = None
    """mtd: frames of one window, L; default that of --model."""
    depth: int = 2
    """mtd: levels, the global one included; strides are (L−1)^(depth−1) … L−1, 1."""
    levels: Levels = "all"
    """mtd: which of them."""
    hop: int = 1
    """Windows begin at multiples of this many frames."""
    where: str | None = None
    """As in training: a pandas query that chooses among the runs."""
    captions: Literal["stored", "sampled"] = "stored"
    """As in training: sampled also encodes the three captions that the one of a clip was chosen from."""
    condition: Literal["pixels", "latents"] = "pixels"
    """mtd: as in training; pixels also encodes each local window with all but both ends zeroed."""
    frames_at_once: int = 16
    """Frames that pass the autoencoder together, at least one window."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the networks run; auto takes GPUs where there are any."""
    verify: bool = False
    """Encode nothing; check every file in --output, and a sample of windows against encoding them again."""
    sample: int = 32
    """Windows that --verify encodes again."""
    engine: Literal["ray", "local"] = "ray"
    """local encodes in this process, without Ray."""
    ray_address: str | None = None
    """Ray cluster to use; without it RAY_ADDRESS, and without that this machine."""
    num_cpus: int | None = None
    """CPUs Ray may use on this machine; all by default."""

    @property
    def single_frames(self) -> bool:
        """True for the image stage, which reads frames one by one."""
        return self.stage == "image"


_OF_WINDOWS = {"length": None, "depth": 2, "levels": "all", "condition": "pixels"}


def check_config(config: EncodeConfig) -> None:
    """Raise LatentsError for settings that nothing can be encoded by."""
    if config.stage not in ("mtd", "image"):
        raise LatentsError(f"stage is {config.stage!r}; latents are for mtd or image, the others learn from pixels")
    _check_words(config)
    for name in ("hop", "frames_at_once", "sample", "num_cpus"):
        if getattr(config, name) is not None and getattr(config, name) < 1:
            raise LatentsError(f"{name} is {getattr(config, name)}; it must be at least 1")
    for name, default in _OF_WINDOWS.items() if config.single_frames else ():
        if getattr(config, name) != default:
            raise LatentsError(f"{name} is {getattr(config, name)}, but image reads single frames; leave it away")
    if config.engine == "local" and (config.ray_address or config.num_cpus):
        raise LatentsError("engine local uses no Ray; leave --ray-address and --num-cpus away, or engine local")
    if config.output.exists() and not config.output.is_dir():
        raise LatentsError(f"output {config.output} is a file; give a folder")


def _check_words(config: EncodeConfig) -> None:
    choices = {"levels": get_args(Levels), "condition": ("pixels", "latents")}
    choices |= {"captions": ("stored", "sampled"), "device": ("auto", "cpu", "cuda"), "engine": ("ray", "local")}
    for name, words in choices.items():
        if getattr(config, name) not in words:
            raise LatentsError(f"{name} is {getattr(config, name)!r}; choose one of {', '.join(words)}")
