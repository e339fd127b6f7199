"""Training from latents that `pipelines.encode` made: found, checked, and read in place of footage."""

import shlex
from collections.abc import Mapping, Sequence

from diffusers import AutoencoderKL

from nuwa.data.encode_plan import WindowSpec, frame_spec, window_spec
from nuwa.data.encoded_windows import EncodedWindows
from nuwa.data.prompt_tokens import PromptFolder
from nuwa.data.runs import Run
from nuwa.generate.folder_pipeline import FolderPipeline
from nuwa.models.vae import TemporalVAE
from nuwa.train.config import TrainConfig, TrainError
from nuwa.train.fingerprints import autoencoder_hash, prompt_encoder_hash

_OTHER_MASKS = ("first_frame_frac", "prediction_frac", "infilling_frac")


def encoded_windows(
    config: TrainConfig, vae: TemporalVAE, runs: Sequence[Run], stride_of_level: Mapping[int, int]
) -> EncodedWindows | None:
    """What mtd reads with --latents, None without. Raises LatentsError or TrainError for what is not there."""
    if config.latents is None:
        return None
    _check_masks(config, runs)
    conditions = config.condition == "pixels"
    spec = window_spec(config.window_length, config.hop, stride_of_level, conditions=conditions)
    return _open(config, vae, runs, spec)


def encoded_frames(config: TrainConfig, vae: AutoencoderKL, runs: Sequence[Run]) -> EncodedWindows | None:
    """What the image stage reads with --latents, None without. Raises LatentsError for what is not there."""
    return None if config.latents is None else _open(config, vae, runs, frame_spec(config.hop))


def encoded_prompts(config: TrainConfig, pipe: FolderPipeline) -> PromptFolder | None:
    """Tokens that were encoded with the latents; those that are not there the text encoder makes."""
    return None if config.latents is None else PromptFolder(config.latents, prompt_encoder_hash(pipe))


def _open(
    config: TrainConfig, vae: TemporalVAE | AutoencoderKL, runs: Sequence[Run], spec: WindowSpec
) -> EncodedWindows:
    assert config.latents is not None, "asked for"
    remedy = f"give the settings they were encoded with, or run {_command(config)}"
    return EncodedWindows(config.latents, autoencoder_hash(vae), runs, spec, remedy)


def _command(config: TrainConfig) -> str:
    """What encodes all that this training reads."""
    words = ["python", "-m", "pipelines.encode", config.stage, "--dataset", config.dataset, "--model", config.init]
    words += ["--output", config.latents, "--hop", config.hop]
    if config.stage == "mtd":
        words += ["--length", config.window_length, "--depth", config.depth, "--levels", config.levels]
        words += ["--condition", config.condition]
    words += [] if config.captions == "stored" else ["--captions", config.captions]
    words += [] if config.where is None else ["--where", config.where]
    return shlex.join(map(str, words))


def _check_masks(config: TrainConfig, runs: Sequence[Run]) -> None:
    """Raise TrainError for masks that only footage gives, where there is none.

    A condition with any other frames known than none or both ends is not encoded before: there are too many.
    """
    asked = [name for name in _OTHER_MASKS if getattr(config, name) > 0]
    if config.condition == "latents" or not asked:
        return
    for run in runs:
        if not run.path.is_file():
            options = " ".join(f"--{name.replace('_', '-')} 0" for name in asked)
            raise TrainError(
                f"{' and '.join(asked)} ask for conditions that are not encoded before, and run file {run.path} is not "
                f"there to encode them from; give {options}, or --condition latents, or put the footage back"
            )
