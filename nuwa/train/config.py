"""What one training run is: stage, data, sizes, schedule. No torch here."""

import dataclasses
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args, get_origin, get_type_hints

from nuwa.hierarchy import NuwaError, strides

STAGES = ("image-vae", "image", "vae", "mtd")
PLANNED = ("stunet", "ssr")
AUTOENCODER_STAGES = ("image-vae", "vae")
IMAGE_STAGES = ("image-vae", "image")
DEFAULT_LENGTH = 16
VaeTrains = Literal["temporal", "decoder", "temporal+decoder", "all"]

DEMO_TEXT_ENCODER = Path(__file__).parents[2] / "demo" / "weights" / "coca"

_PLACES = ("dataset", "output", "init", "text_encoder", "ray_address")
_RHYTHM = ("steps", "checkpoint_every", "keep_checkpoints", "log_every")
_MACHINERY = ("threads", "loader_workers", "frame_cache_mb", "latent_cache_mb", "workers", "engine")
FREE_TO_CHANGE = frozenset({*_PLACES, *_RHYTHM, *_MACHINERY, "gradient_checkpointing"})
"""Fields that may differ when a run is continued: places and machinery; all others change what is learned."""


class TrainError(NuwaError):
    """The training cannot start or go on as asked."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    stage: str
    """What to train: image-vae, image, vae, mtd, in this order; each one's RUN/model is the next one's --init."""
    dataset: Path
    """Dataset folder written by pipelines.curate."""
    output: Path
    """Run folder: config.json, logs/, checkpoints/, model/. The same command again resumes."""
    init: Path | None = None
    """Pipeline folder to start from; without it every component starts new at the preset's size."""
    preset: Literal["toy", "base", "large"] = "toy"
    """Size of new components: toy for 32 px on a CPU, base, large (Stable Diffusion's)."""
    text_encoder: Path = DEMO_TEXT_ENCODER
    """open_clip model folder whose text tower encodes prompts; used without --init only."""
    levels: Literal["global", "local", "all"] = "all"
    """mtd: which network to train; all trains one network shared by all levels."""
    length: int | None = None
    """Frames of one window, L; default that of --init, 16 without. Image stages keep that of --init."""
    depth: int = 2
    """Levels, the global one included; strides are (L−1)^(depth−1) … L−1, 1."""
    hop: int = 1
    """Windows begin at multiples of this many frames."""
    steps: int | None = None
    """Optimiser steps; default by stage."""
    batch: int | None = None
    """Windows (frames for image-vae and image) per step, shared by all workers equally; default by stage. So any
    number of workers learns from the same windows and noise, but for rounding and the adaptive adversarial weight."""
    lr: float | None = None
    """Peak learning rate; default by stage."""
    warmup: int = 100
    """Steps over which the learning rate rises from 0."""
    decay_frac: float = 0.3
    """Last part of the steps over which the learning rate falls to 0, linearly."""
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    """Largest norm of the gradient of all weights together."""
    ema_decay: float = 0.999
    """Decay of the averaged weights, which are the ones saved in model/; young averages decay faster."""
    prediction_type: Literal["v_prediction", "epsilon"] = "v_prediction"
    """What a new denoiser predicts; with --init the scheduler of that folder decides."""
    prompt_dropout: float = 0.1
    """Probability that a window loses all its prompts (classifier-free guidance)."""
    condition_dropout: float = 0.1
    """Probability that a window's fps and motion score are hidden, each on its own."""
    global_mask_frac: float = 0.1
    """mtd: share of local windows trained with nothing given."""
    first_frame_frac: float = 0.05
    """mtd: share of windows, at every level, trained with their first frame given (a story from a picture)."""
    prediction_frac: float = 0.05
    """mtd: share of windows trained with their first k frames given, k random (a video that goes on)."""
    infilling_frac: float = 0.05
    """mtd: share of windows trained with any k frames given, k and frames random (a storyboard)."""
    condition: Literal["pixels", "latents"] = "pixels"
    """mtd: the window encoded with its unknown frames zeroed before (the paper's), or its latents with zeros in their
    place, a shortcut that encodes nothing twice; generate with the same."""
    condition_noise: float = 0.0
    """mtd: most noise on the condition, in standard deviations of a latent; a window draws its own and is told."""
    injection: Literal["symmetric", "up_only", "single_scale"] = "symmetric"
    """Where condition and mask enter a new denoiser (the paper's ablation); with --init that folder's decides."""
    gradient_checkpointing: bool = False
    """mtd: compute activations again in the backward pass: less memory, more time, the same result."""
    kl_weight: float = 1e-4
    """image-vae, vae: weight of the KL term per latent element, against the mean absolute error."""
    vae_trains: VaeTrains = "temporal+decoder"
    """vae: temporal = all temporal layers; decoder = all of the decoder, so that latents stay as they are (Video LDM);
    temporal+decoder = both, and the encoder's spatial layers stay; all = every weight."""
    lpips_weights: Path | None = None
    """image-vae, vae: file or folder with torchvision's VGG16 and the heads of LPIPS; adds the perceptual term."""
    perceptual_weight: float = 1.0
    """Weight of the perceptual term against the mean absolute error, with --lpips-weights."""
    adversarial_weight: float = 0.0
    """image-vae, vae: weight of a patch discriminator's term, 0.5 in Stable Diffusion; 0 trains none."""
    adversarial_start: int = 0
    """Steps before the discriminator and its term take part."""
    adversarial_balance: Literal["adaptive", "fixed"] = "adaptive"
    """adaptive scales the term until it pulls at the decoder's last layer as hard as the reconstruction (VQGAN)."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Autocast type; auto takes bf16 where that was measured faster: recent GPUs, autoencoders on CPUs with AMX."""
    seed: int = 0
    checkpoint_every: int = 500
    """Steps between checkpoints; model/ is written with each."""
    keep_checkpoints: int = 2
    log_every: int = 20
    threads: int | None = None
    """CPU threads of each worker; default all cores shared out among the workers."""
    loader_workers: int = 0
    """Processes that decode ahead; 0 decodes in the training process, best when runs fit the frame cache."""
    frame_cache_mb: int = 2048
    """Memory for decoded runs, per process."""
    latent_cache_mb: int = 2048
    """Memory for latents of a frozen autoencoder; windows that do not fit are encoded each time."""
    workers: int = 1
    """Ray Train workers."""
    ray_address: str | None = None
    """Ray cluster to use; default one started on this machine."""
    engine: Literal["ray", "local"] = "ray"
    """local runs the same loop in this process, without Ray."""

    @property
    def window_length(self) -> int:
        """Frames of one window, L."""
        return DEFAULT_LENGTH if self.length is None else self.length


DEFAULTS: dict[str, tuple[int, int, float]] = {
    "image-vae": (3000, 32, 1e-3),
    "image": (4000, 64, 1e-3),
    "vae": (300, 2, 2e-4),
    "mtd": (3000, 8, 5e-4),
}
"""Steps, batch and peak learning rate of each stage for the toy preset on two cores."""


def resolve(config: TrainConfig) -> TrainConfig:
    """Check a config and fill in the defaults of its stage."""
    if config.stage in PLANNED:
        raise TrainError(f"stage {config.stage} is not implemented yet; choose one of {', '.join(STAGES)}")
    if config.stage not in STAGES:
        raise TrainError(f"there is no stage {config.stage!r}; choose one of {', '.join(STAGES)}")
    steps, batch, lr = DEFAULTS[config.stage]
    _check_choices(config)
    config = dataclasses.replace(
        config,
        length=_length(config),
        steps=steps if config.steps is None else config.steps,
        batch=batch if config.batch is None else config.batch,
        lr=lr if config.lr is None else config.lr,
    )
    _check_ranges(config)
    _check_effects(config)
    _check_adversary(config)
    _check_workers(config)
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
    of_init = None if config.init is None else _length_of(config.init)
    if config.length is None:
        return DEFAULT_LENGTH if of_init is None else of_init
    if keeps_length(config) and of_init not in (None, config.length):
        raise TrainError(
            f"length is {config.length}, but stage {config.stage} keeps the windows of --init, {of_init} frames long; "
            "leave it away, and give it to vae and mtd"
        )
    return config.length


def _length_of(init: Path) -> int | None:
    """Window length of a pipeline folder; None where there is none to be read, which loading it tells better."""
    try:
        entries = json.loads((init / "model_index.json").read_text("utf-8"))
    except (OSError, ValueError):
        return None
    length = entries.get("window_length") if isinstance(entries, dict) else None
    return length if isinstance(length, int) else None


_COUNTS = ("steps", "batch", "hop", "checkpoint_every", "keep_checkpoints", "log_every", "workers")
_NOT_BELOW_0 = (
    "seed",
    "warmup",
    "adversarial_start",
    "weight_decay",
    "kl_weight",
    "loader_workers",
    "frame_cache_mb",
    "latent_cache_mb",
)
_MASKS = ("global_mask_frac", "first_frame_frac", "prediction_frac", "infilling_frac")
_FRACTIONS = ("decay_frac", "ema_decay", "prompt_dropout", "condition_dropout", *_MASKS)
_INFINITY = float("inf")
_RANGES: dict[str, tuple[float, float]] = {
    **dict.fromkeys(_COUNTS, (1, _INFINITY)),
    **dict.fromkeys(_NOT_BELOW_0, (0, _INFINITY)),
    **dict.fromkeys(_FRACTIONS, (0, 1)),
    "condition_noise": (0, 1000),
    **dict.fromkeys(("perceptual_weight", "adversarial_weight"), (0, 1000)),
}


def _check_choices(config: TrainConfig) -> None:
    """Raise TrainError for a word that a setting does not know."""
    for name, hint in get_type_hints(TrainConfig).items():
        if get_origin(hint) is Literal and getattr(config, name) not in get_args(hint):
            raise TrainError(f"{name} is {getattr(config, name)!r}; choose one of {', '.join(get_args(hint))}")


def _check_ranges(config: TrainConfig) -> None:
    """Raise TrainError for a number that nothing can be trained with."""
    for name in (*_RANGES, "lr", "clip_norm"):
        if not math.isfinite(getattr(config, name)):
            raise TrainError(f"{name} is {getattr(config, name)}; it must be a finite number")
    for name, (least, most) in _RANGES.items():
        if not least <= getattr(config, name) <= most:
            rule = f"be at least {least}" if most == _INFINITY else f"lie between {least} and {most}"
            raise TrainError(f"{name} is {getattr(config, name)}; it must {rule}")
    if (shares := sum(getattr(config, name) for name in _MASKS)) > 1 + 1e-9:
        raise TrainError(f"{' + '.join(_MASKS)} is {shares:g}; as shares of the windows they may be at most 1 together")
    for name in ("lr", "clip_norm"):
        if not getattr(config, name) > 0:
            raise TrainError(f"{name} is {getattr(config, name)}; it must be above 0")
    if config.threads is not None and config.threads < 1:
        raise TrainError(f"threads is {config.threads}; it must be at least 1")


_PERCEPTUAL = ("lpips_weights", "perceptual_weight")
_ADVERSARIAL = ("adversarial_weight", "adversarial_start", "adversarial_balance")
_WINDOWS = ("levels", "condition", "condition_noise", "condition_dropout", "gradient_checkpointing", *_MASKS)
_STAGES_WITH: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(_WINDOWS, ("mtd",)),
    "prompt_dropout": ("image", "mtd"),
    "depth": ("vae", "mtd"),
    "vae_trains": ("vae",),
    **dict.fromkeys(("kl_weight", *_PERCEPTUAL, *_ADVERSARIAL), AUTOENCODER_STAGES),
}
"""Stages in which a setting does something; those not named do something in all."""
_OF_NEW_PARTS = ("preset", "injection", "prediction_type")


def without_effect(config: TrainConfig) -> dict[str, str]:
    """Settings that change nothing in this training, with the reason and the remedy."""
    reasons: dict[str, str] = {}
    if config.init is not None:
        reasons |= dict.fromkeys(_OF_NEW_PARTS, "the pipeline of --init decides that; leave one of both away")
    if config.lpips_weights is None:
        reasons["perceptual_weight"] = "there is no perceptual term; give --lpips-weights, or leave it away"
    if config.adversarial_weight == 0:
        missing = "there is no adversarial term; give --adversarial-weight, or leave it away"
        reasons |= dict.fromkeys(_ADVERSARIAL[1:], missing)
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
    """Raise TrainError for a discriminator that never starts."""
    if config.adversarial_weight > 0 and config.adversarial_start >= (config.steps or 0):
        raise TrainError(
            f"adversarial_start is {config.adversarial_start}, but the training ends after {config.steps} steps;"
            " give fewer, or set adversarial_weight to 0"
        )


def _check_workers(config: TrainConfig) -> None:
    """Raise TrainError for workers that there are not, or that cannot share a batch."""
    if config.engine == "local" and config.workers > 1:
        raise TrainError(f"workers is {config.workers}, but engine local is one process; leave one of both away")
    batch_share(config.batch or 0, config.workers)
