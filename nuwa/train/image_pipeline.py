"""A NUWA-XL pipeline inflated from the folder of an image model that has Stable Diffusion's layout."""

import inspect
from pathlib import Path
from typing import Any, TypeVar

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import AutoTokenizer, CLIPTextConfig, PreTrainedTokenizerFast

from nuwa.data.runs import Run
from nuwa.generate.folder_checks import one_line, read_json
from nuwa.generate.folder_pipeline import LOADING_ERRORS
from nuwa.generate.pipeline import NuwaXLPipeline
from nuwa.hierarchy import NuwaError
from nuwa.models.clip_text import prompt_encoder_from_clip
from nuwa.models.mtd import MaskTemporalUNet
from nuwa.models.text import PromptEncoder
from nuwa.models.vae import TemporalVAE
from nuwa.train.config import TrainConfig, TrainError

Model = TypeVar("Model", UNet2DConditionModel, AutoencoderKL)


def inflated_pipeline(config: TrainConfig, run: Run) -> NuwaXLPipeline:
    """The image model in `config.init`, frame by frame, for windows of runs like `run` (NUWA-XL Eq. 1 and 2).

    Read are unet, vae, text_encoder, tokenizer and scheduler; the other folders (safety_checker, …) are not. The
    scheduler keeps its noise schedule and what it predicts, which the U-Net has learned.
    Raises NuwaError, one line naming the folder, for what is missing, damaged, not supported or does not fit.
    """
    folder = config.init
    assert folder is not None, "whoever calls has found an image model in --init"
    unet = _model(folder / "unet", UNet2DConditionModel)
    image_vae = _model(folder / "vae", AutoencoderKL)
    torch.manual_seed(0)  # not config.seed: latents that were encoded once are for trainings of every seed
    vae = TemporalVAE.from_image_vae(image_vae)
    check_frame_size(run, vae.downsample_factor * 2 ** (len(unet.config.block_out_channels) - 1), f"{folder}")
    torch.manual_seed(config.seed)
    return NuwaXLPipeline(
        vae=vae,
        denoiser_global=MaskTemporalUNet.from_unet(unet, injection=config.injection),
        text_encoder=_text_encoder(folder / "text_encoder"),
        tokenizer=_tokenizer(folder / "tokenizer"),
        scheduler=_scheduler(folder / "scheduler"),
        window_length=config.window_length,
        train_fps=run.train_fps,
        height=run.height,
        width=run.width,
    )


def check_frame_size(run: Run, multiple: int, networks: str) -> None:
    """Raise TrainError when networks that halve a frame again and again cannot halve those of `run`."""
    if run.width % multiple or run.height % multiple:
        raise TrainError(
            f"runs of {run.width}x{run.height} px do not fit {networks}: both sides must be multiples of {multiple}; "
            "curate at such a size, or start from other networks"
        )


def _model(folder: Path, kind: type[Model]) -> Model:
    """Weights of one network, float32 on the CPU, all of them from the folder."""
    _config(folder)
    variant = "fp16" if ".fp16." in _weights(folder)[0].name else None
    options: dict[str, Any] = {"local_files_only": True, "use_safetensors": True, "low_cpu_mem_usage": False}
    try:
        model, found = kind.from_pretrained(
            folder, variant=variant, torch_dtype=torch.float32, output_loading_info=True, **options
        )
    except (*LOADING_ERRORS, SafetensorError) as error:
        raise TrainError(f"{folder} cannot be loaded ({one_line(error)}); copy it again") from error
    if missing := sorted(found["missing_keys"]):
        raise TrainError(f"{folder} lacks {len(missing)} weights, the first is {missing[0]}; copy it again")
    return model


def _text_encoder(folder: Path) -> PromptEncoder:
    kind = _config(folder).get("model_type")
    if kind != "clip_text_model":
        raise TrainError(
            f"{folder} holds a {kind}, not a clip_text_model; give a folder of Stable Diffusion's layout, or one that "
            "training wrote"
        )
    try:
        config = CLIPTextConfig.from_pretrained(folder, local_files_only=True)
        state = {name: weight for path in _weights(folder) for name, weight in load_file(path).items()}
        return prompt_encoder_from_clip(config, state)
    except NuwaError as error:
        raise TrainError(f"{folder}: {error}") from error
    except (*LOADING_ERRORS, SafetensorError) as error:
        raise TrainError(f"{folder} cannot be loaded ({one_line(error)}); copy it again") from error


def _weights(folder: Path) -> list[Path]:
    """Files of weights: those in full precision, or where there are none those in half."""
    found = sorted(folder.glob("*.safetensors"))
    full = [path for path in found if ".fp16" not in path.name]
    if not found:
        raise TrainError(f"{folder} has no weights as safetensors; copy or convert them")
    return full or found


def _tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    _config(folder, "tokenizer_config.json")
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except LOADING_ERRORS as error:
        raise TrainError(f"{folder} cannot be loaded ({one_line(error)}); copy it again") from error


def _scheduler(folder: Path) -> DDIMScheduler:
    """DDIM with the betas and the prediction of the scheduler that is stored there, whatever its own sampler is."""
    entries = _config(folder, "scheduler_config.json")
    if "beta_schedule" not in entries:
        raise TrainError(
            f"{folder} says nothing of betas ({entries.get('_class_name')}); models of other noise schedules cannot be "
            "taken up"
        )
    known = inspect.signature(DDIMScheduler.__init__).parameters
    kept = {name: entry for name, entry in entries.items() if name in known}
    return DDIMScheduler(**kept | {"clip_sample": False})


def _config(folder: Path, name: str = "config.json") -> dict[str, Any]:
    """Configuration of a component. Raises TrainError where there is none."""
    if not (folder / name).is_file():
        raise TrainError(
            f"{folder / name} is missing; an image model to start from has the folders unet, vae, text_encoder, "
            "tokenizer and scheduler"
        )
    return read_json(folder / name)
