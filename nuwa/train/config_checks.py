"""Whether a training can be as its settings say: choices, ranges, settings without effect; and defaults by stage."""

import dataclasses
import math
from typing import Literal, get_args, get_origin, get_type_hints

from nuwa.hierarchy import strides
from nuwa.train.config import (
    AUTOENCODER_STAGES,
    CLIP_STAGES,
    DEFAULT_LENGTH,
    DEFAULT_LENGTHS,
    IMAGE_STAGES,
    STAGES,
    TrainConfig,
    TrainError,
)
from nuwa.train.data_checks import check_data
from nuwa.train.init_folder import defaults_of, is_image_pipeline, window_length_of


def resolve(config: TrainConfig) -> TrainConfig:
    """Check a config and fill in the defaults of its stage."""
    if config.stage not in STAGES:
        raise TrainError(f"there is no stage {config.stage!r}; choose one of {', '.join(STAGES)}")
    _check_choices(config)
    steps, batch, lr = defaults_of(config)
    config = dataclasses.replace(
        config,
        length=_length(config),
        steps=steps if config.steps is None else config.steps,
        batch=batch if config.batch is None else config.batch,
        lr=lr if config.lr is None else config.lr,
    )
    _check_ranges(config)
    _check_effects(config)
    check_data(config)
    _check_adversary(config)
    _check_workers(config)
    _check_parts(config)
    strides(config.window_length, config.depth)  # raises NuwaError for a length or depth that cannot be
    return config


def batch_share(batch: int, workers: int) -> int:
    """Rows of each worker. Raises TrainError where the workers cannot share a batch equally."""
    if batch % workers:
        raise TrainError(
            f"batch is {batch}, which {workers} workers cannot share equally; give a multiple of {workers}, "
            f"for instance --batch {-(-batch // workers) * workers}"
        )
    return batch // workers


def keeps_length(config: TrainConfig) -> bool:
    """True where windows stay as long as those of --init: image stages read single frames."""
    return config.stage in IMAGE_STAGES and config.init is not None


def _length(config: TrainConfig) -> int:
    """Frames of a window: those asked for, or those of --init, or the default."""
    of_init = None if config.init is None else window_length_of(config.init, config.stage)
    if config.length is None:
        return DEFAULT_LENGTHS.get(config.stage, DEFAULT_LENGTH) if of_init is None else of_init
    if keeps_length(config) and of_init not in (None, config.length):
        raise TrainError(
            f"length is {config.length}, but stage {config.stage} keeps the windows of --init, {of_init} frames long; "
            "leave it away, and give it to vae and mtd"
        )
    return config.length


_COUNTS = ("steps", "batch", "accumulate", "hop", "checkpoint_every", "keep_checkpoints", "log_every", "workers")
_NOT_BELOW_0 = (
    "seed",
    "warmup",
    "sample_every",
    "max_failures",
    "adversarial_start",
    "weight_decay",
    "kl_weight",
    "loader_workers",
    "frame_cache_mb",
    "latent_cache_mb",
)
_FRAMES = ("first_frame_frac", "prediction_frac", "infilling_frac")
_MASKS = ("global_mask_frac", *_FRAMES)
_TASKS = (*_FRAMES, "inpainting_frac", "outpainting_frac", "cinemagraph_frac")
_PARTS = ("decay_frac", "ema_decay", "prompt_dropout", "condition_dropout", "image_frac", "ssr_noise")
_FRACTIONS = (*_PARTS, *dict.fromkeys((*_MASKS, *_TASKS)))
_ABOVE_0 = ("lr", "clip_norm", "min_snr_gamma")
_INFINITY = float("inf")
_RANGES: dict[str, tuple[float, float]] = {
    **dict.fromkeys(_COUNTS, (1, _INFINITY)),
    **dict.fromkeys(_NOT_BELOW_0, (0, _INFINITY)),
    **dict.fromkeys(_FRACTIONS, (0, 1)),
    "condition_noise": (0, 1000),
    "ssr_scale": (2, 64),
    **dict.fromkeys(("perceptual_weight", "adversarial_weight", "temporal_lr_factor"), (0, 1000)),
}


def _check_choices(config: TrainConfig) -> None:
    """Raise TrainError for a word that a setting does not know."""
    for name, hint in get_type_hints(TrainConfig).items():
        if get_origin(hint) is Literal and getattr(config, name) not in get_args(hint):
            raise TrainError(f"{name} is {getattr(config, name)!r}; choose one of {', '.join(get_args(hint))}")


def _check_ranges(config: TrainConfig) -> None:
    """Raise TrainError for a number that nothing can be trained with."""
    for name in (*_RANGES, *_ABOVE_0):
        if not math.isfinite(getattr(config, name) or 0):
            raise TrainError(f"{name} is {getattr(config, name)}; it must be a finite number")
    for name, (least, most) in _RANGES.items():
        if not least <= getattr(config, name) <= most:
            rule = f"be at least {least}" if most == _INFINITY else f"lie between {least} and {most}"
            raise TrainError(f"{name} is {getattr(config, name)}; it must {rule}")
    masks = _TASKS if config.stage in CLIP_STAGES else _MASKS
    if (shares := sum(getattr(config, name) for name in masks)) > 1 + 1e-9:
        raise TrainError(f"{' + '.join(masks)} is {shares:g}; as shares of the windows they may be at most 1 together")
    for name in _ABOVE_0:
        if (value := getattr(config, name)) is not None and not value > 0:
            raise TrainError(f"{name} is {value}; it must be above 0")
    if config.threads is not None and config.threads < 1:
        raise TrainError(f"threads is {config.threads}; it must be at least 1")


_PERCEPTUAL = ("lpips_weights", "perceptual_weight")
_ADVERSARIAL = ("adversarial_weight", "adversarial_start", "adversarial_balance")
_CONDITIONS = ("condition", "condition_noise", "global_mask_frac")
_WINDOWS = ("levels", "image_frac", *_CONDITIONS)
_DENOISERS = ("image", "mtd", *CLIP_STAGES)
_STAGES_WITH: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(_WINDOWS, ("mtd",)),
    **dict.fromkeys(_FRAMES, ("mtd", "stunet")),
    **dict.fromkeys(_TASKS[len(_FRAMES) :], ("stunet",)),
    **dict.fromkeys(("ssr_scale", "ssr_noise"), ("ssr",)),
    "condition_dropout": ("mtd", *CLIP_STAGES),
    "latents": ("image", "mtd"),
    **dict.fromkeys(("prompt_dropout", "captions", "min_snr_gamma"), _DENOISERS),
    **dict.fromkeys(("depth", "level_shares"), ("vae", "mtd")),
    "temporal_lr_factor": ("vae", "mtd", "ssr"),
    "injection": (*AUTOENCODER_STAGES, "image", "mtd"),
    "vae_trains": ("vae",),
    **dict.fromkeys(("kl_weight", *_PERCEPTUAL, *_ADVERSARIAL), AUTOENCODER_STAGES),
}
"""Stages in which a setting does something; those not named do something in all."""
_OF_NEW_PARTS = ("preset", "text_encoder", "injection", "prediction_type")


def without_effect(config: TrainConfig) -> dict[str, str]:
    """Settings that change nothing in this training, with the reason and the remedy."""
    reasons: dict[str, str] = {}
    if config.init is not None:
        reasons |= dict.fromkeys(_OF_NEW_PARTS, "the pipeline of --init decides that; leave one of both away")
        if is_image_pipeline(config.init):
            del reasons["injection"]  # what an image network is inflated with
    if config.lpips_weights is None:
        reasons["perceptual_weight"] = "there is no perceptual term; give --lpips-weights, or leave it away"
    if config.adversarial_weight == 0:
        missing = "there is no adversarial term; give --adversarial-weight, or leave it away"
        reasons |= dict.fromkeys(_ADVERSARIAL[1:], missing)
    if config.engine == "local":
        reasons["max_failures"] = "engine local has no workers to lose; leave it away"
        reasons["ray_address"] = "engine local uses no cluster; leave one of both away"
    if config.levels == "global":
        reasons["global_mask_frac"] = "levels is global, whose windows have nothing given anyway; leave it away"
    if config.decay_frac == 0:
        reasons["decay"] = "decay_frac is 0, and the learning rate never falls; leave one of both away"
    if (config.steps or 0) < (config.checkpoint_every + 1) // 2:
        reasons["keep_best"] = (
            f"checkpoint_every is {config.checkpoint_every}, and the training ends after {config.steps} steps, too few "
            "to judge by; give a smaller --checkpoint-every, or leave it away"
        )
    for name, stages in _STAGES_WITH.items():
        if config.stage not in stages:
            remedy = f"leave it away, or choose {' or '.join(stages)}"
            reasons[name] = f"stage {config.stage} does nothing with it; {remedy}"
    return reasons


def _check_effects(config: TrainConfig) -> None:
    """Raise TrainError for a setting that was changed and does nothing."""
    defaults = {field.name: field.default for field in dataclasses.fields(TrainConfig)}
    for name, reason in without_effect(config).items():
        if getattr(config, name) != defaults[name]:
            raise TrainError(f"{name} is {getattr(config, name)}, but {reason}")


def _check_adversary(config: TrainConfig) -> None:
    """Raise TrainError for a discriminator that never starts, or whose term would decide what is best."""
    if config.adversarial_weight > 0 and config.adversarial_start >= (config.steps or 0):
        raise TrainError(
            f"adversarial_start is {config.adversarial_start}, but the training ends after {config.steps} steps;"
            " give fewer, or set adversarial_weight to 0"
        )
    if config.adversarial_weight > 0 and config.keep_best:
        raise TrainError(
            "keep_best compares losses, which do not compare with an adversarial term; leave one of both away"
        )


def _check_workers(config: TrainConfig) -> None:
    """Raise TrainError for workers that there are not, or that cannot share a batch."""
    if config.engine == "local" and config.workers > 1:
        raise TrainError(f"workers is {config.workers}, but engine local is one process; leave one of both away")
    batch_share(config.batch or 0, config.workers)
    if config.sharding == "fsdp" and config.workers == 1:
        raise TrainError(
            "sharding is fsdp, but 1 worker has nobody to share with; give more --workers, or leave it away"
        )
    if config.sharding == "fsdp" and config.compile:
        raise TrainError("compile and sharding fsdp do not go together; leave one of both away")
    if config.sharding == "fsdp" and config.adversarial_weight > 0 and config.adversarial_balance == "adaptive":
        raise TrainError(
            "adversarial_balance is adaptive, which looks into weights that --sharding fsdp shares out; give "
            "--adversarial-balance fixed, or no --sharding"
        )


def _check_parts(config: TrainConfig) -> None:
    """Raise TrainError for parts that a worker's share of the batch cannot be cut into."""
    share = batch_share(config.batch or 0, config.workers)
    if share % config.accumulate:
        fitting = max(parts for parts in range(1, config.accumulate) if share % parts == 0)
        raise TrainError(
            f"accumulate is {config.accumulate}, but the {share} rows of a worker's batch cannot be taken in that many "
            f"equal parts; give a divisor of {share}, for instance --accumulate {fitting}"
        )
