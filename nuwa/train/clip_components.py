"""What the stages of Lumiere start from, and the pipeline they leave."""

import torch

from nuwa.data.runs import Run
from nuwa.generate.folder_checks import class_name_of
from nuwa.generate.pipeline import NuwaXLPipeline
from nuwa.generate.pipeline_folder import load_pipeline
from nuwa.generate.stunet_pipeline import StunetPipeline, load_stunet
from nuwa.models.ssr import SuperResolutionUNet
from nuwa.models.stunet import SpaceTimeUNet
from nuwa.train.components import starting_pipeline
from nuwa.train.config import TrainConfig, TrainError
from nuwa.train.init_folder import is_image_pipeline


def starting_clip_pipeline(config: TrainConfig, run: Run) -> StunetPipeline:
    """What a stage of Lumiere starts from: a folder with a space-time U-Net, or one that another pipeline gives.

    Raises NuwaError for a folder that cannot be taken up.
    """
    pipe = _stored_or_inflated(config, run)
    if config.stage == "stunet":  # sizes and frame rate are those of the last training; ssr leaves stunet as it is
        pipe.register_to_config(height=run.height, width=run.width, train_fps=run.train_fps)
    return pipe


def _stored_or_inflated(config: TrainConfig, run: Run) -> StunetPipeline:
    if config.init is None or is_image_pipeline(config.init):
        return inflated_clip_pipeline(starting_pipeline(config, run), config)
    kind = class_name_of(config.init)
    if kind == StunetPipeline.__name__:
        return load_stunet(config.init)
    if kind == NuwaXLPipeline.__name__:
        return inflated_clip_pipeline(load_pipeline(config.init), config)
    raise TrainError(
        f"init {config.init} is the folder of a {kind}; stage {config.stage} starts from one that pipelines.train "
        "wrote, in any stage"
    )


def inflated_clip_pipeline(pipe: NuwaXLPipeline, config: TrainConfig) -> StunetPipeline:
    """Autoencoder, prompts and schedule of `pipe`, and the image weights of its global denoiser inflated anew."""
    torch.manual_seed(config.seed)
    return StunetPipeline(
        stunet=SpaceTimeUNet.from_unet(pipe.denoiser_global.image_unet()),
        text_encoder=pipe.text_encoder,
        tokenizer=pipe.tokenizer,
        scheduler=pipe.scheduler,
        vae=pipe.vae,
        train_fps=pipe.config.train_fps,
        height=pipe.config.height,
        width=pipe.config.width,
        ssr_scale=config.ssr_scale,
    )


def rebuilt_clip(
    pipe: StunetPipeline,
    *,
    stunet: SpaceTimeUNet | None = None,
    window_length: int | None = None,
    ssr: SuperResolutionUNet | None = None,
    ssr_scale: int | None = None,
    ssr_length: int | None = None,
    ssr_noise: float | None = None,
) -> StunetPipeline:
    """`pipe` with the given parts, and what they learned from, in place of its own."""
    return StunetPipeline(
        stunet=stunet or pipe.stunet,
        text_encoder=pipe.text_encoder,
        tokenizer=pipe.tokenizer,
        scheduler=pipe.scheduler,
        vae=pipe.vae,
        ssr=ssr or pipe.ssr,
        window_length=window_length or pipe.config.window_length,
        train_fps=pipe.config.train_fps,
        height=pipe.config.height,
        width=pipe.config.width,
        ssr_scale=ssr_scale or pipe.config.ssr_scale,
        ssr_length=ssr_length or pipe.config.ssr_length,
        ssr_noise=pipe.config.ssr_noise if ssr_noise is None else ssr_noise,
    )
