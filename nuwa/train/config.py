"""What one training run is: stage, data, sizes, schedule. Checked by config_checks.py. No torch here."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from nuwa.hierarchy import NuwaError

STAGES = ("image-vae", "image", "vae", "mtd", "stunet", "ssr")
CLIP_STAGES = ("stunet", "ssr")
AUTOENCODER_STAGES = ("image-vae", "vae")
IMAGE_STAGES = ("image-vae", "image")
DEFAULT_LENGTH = 16
DEFAULT_LENGTHS = {"stunet": 80}
"""Frames of a window in stages that have others: Lumiere's clips."""
VaeTrains = Literal["temporal", "decoder", "temporal+decoder", "all"]

_PLACES = ("dataset", "latents", "output", "init", "text_encoder", "ray_address")
_RHYTHM = ("steps", "checkpoint_every", "keep_checkpoints", "keep_best", "log_every", "sample_every")
_MACHINERY = (
    "threads",
    "loader_workers",
    "frame_cache_mb",
    "latent_cache_mb",
    "workers",
    "engine",
    "sharding",
    "max_failures",
)
_ROUNDING = ("gradient_checkpointing", "accumulate", "compile")
FREE_TO_CHANGE = frozenset({*_PLACES, *_RHYTHM, *_MACHINERY, *_ROUNDING})
"""Fields that may differ when a run is continued: places and machinery; all others change what is learned."""


class TrainError(NuwaError):
    """The training cannot start or go on as asked."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    stage: str
    """What to train: image-vae, image, vae, mtd, in this order; each one's RUN/model is the next one's --init. Or, from
    that of vae, stunet and ssr: clips in one pass, and what makes them larger."""
    dataset: Path
    """Dataset folder written by pipelines.curate."""
    latents: Path | None = None
    """image, mtd: folder written by pipelines.encode; windows and prompts are read from it, not encoded again."""
    output: Path
    """Run folder: config.json, logs/, checkpoints/, model/. The same command again resumes."""
    init: Path | None = None
    """Pipeline folder to start from; without it every component starts new at the preset's size."""
    preset: Literal["toy", "base", "large"] = "toy"
    """Size of new components: toy for 32 px on a CPU, base, large (Stable Diffusion's)."""
    text_encoder: Path | None = None
    """open_clip model folder whose text tower encodes prompts; default the one of demo/weights; used without --init
    only."""
    levels: Literal["global", "local", "all"] = "all"
    """mtd: which network to train; all trains one network shared by all levels."""
    length: int | None = None
    """Frames of one window, L; default that of --init, else 16, of stunet 80. Image stages keep that of --init."""
    depth: int = 2
    """Levels, the global one included; strides are (L−1)^(depth−1) … L−1, 1."""
    level_shares: tuple[float, ...] | None = None
    """vae, mtd: share of the windows that each level gets, the global one first, in any unit (1 2 is a third and two);
    one number per level that is trained; equal shares without."""
    hop: int = 1
    """Windows begin at multiples of this many frames."""
    where: str | None = None
    """Pandas query that chooses the runs to train on, over the columns of runs and, as mean or share over the frames of
    a run, of clips: "keep > 0.8 and aesthetic_score > 6"."""
    image_frac: float = 0.0
    """mtd: share of a batch's rows that are single frames of different runs, which the temporal layers do not mix."""
    captions: Literal["stored", "sampled"] = "stored"
    """image, mtd, stunet, ssr: the caption chosen at curation, or for every clip of every draw one of caption_coca,
    caption_video, caption_llm with probabilities 0.5, 0.25, 0.25 (Stable Video Diffusion)."""
    steps: int | None = None
    """Optimiser steps; default by stage."""
    batch: int | None = None
    """Windows (frames for image-vae and image) per step, shared by all workers equally; default by stage. So any
    number of workers learns from the same windows and noise, but for rounding and the adaptive adversarial weight."""
    accumulate: int = 1
    """Parts that each worker takes its share of a batch in, one after another: less memory, the same windows and noise,
    the same result but for rounding and the adaptive adversarial weight."""
    lr: float | None = None
    """Peak learning rate; default by stage."""
    temporal_lr_factor: float = 1.0
    """vae, mtd, ssr: learning rate of the temporal layers (and of condition and mask) over that of image weights."""
    warmup: int = 100
    """Steps over which the learning rate rises from 0."""
    decay_frac: float = 0.3
    """Last part of the steps over which the learning rate falls to 0."""
    decay: Literal["linear", "cosine"] = "linear"
    """Shape of that fall."""
    weight_decay: float = 0.01
    """Of AdamW; a discriminator has none."""
    clip_norm: float = 1.0
    """Largest norm of the gradient of all weights together."""
    ema_decay: float = 0.999
    """Decay of the averaged weights, which are the ones saved in model/; young averages decay faster."""
    prediction_type: Literal["v_prediction", "epsilon"] = "v_prediction"
    """What a new denoiser predicts; with --init the scheduler of that folder decides."""
    min_snr_gamma: float | None = None
    """image, mtd, stunet, ssr: most signal-to-noise ratio that the loss of clean latents is weighted by (Hang et al.
    2023 take 5); without it the error of what the network predicts counts the same at every step."""
    prompt_dropout: float = 0.1
    """Probability that a window loses all its prompts (classifier-free guidance)."""
    condition_dropout: float = 0.1
    """Probability that a window's fps and motion score are hidden, each on its own."""
    global_mask_frac: float = 0.1
    """mtd: share of local windows trained with nothing given."""
    first_frame_frac: float = 0.05
    """mtd, stunet: share of windows trained with their first frame given (a story from a picture)."""
    prediction_frac: float = 0.05
    """mtd, stunet: share of windows trained with their first k frames given, k random (a video that goes on)."""
    infilling_frac: float = 0.05
    """mtd, stunet: share of windows trained with any k frames given, k and frames random (a storyboard)."""
    inpainting_frac: float = 0.1
    """stunet: share of clips trained with all but a region given, a rectangle that stays or moves."""
    outpainting_frac: float = 0.1
    """stunet: share of clips trained with such a region only."""
    cinemagraph_frac: float = 0.1
    """stunet: share of clips trained with the first frame given, and of the others all but a region."""
    ssr_scale: int = 2
    """ssr: how many times longer the sides of a large video are than those of the small one."""
    ssr_noise: float = 0.5
    """ssr: most noise augmentation of the small video, 0 to 1; a window draws its own and is told."""
    condition: Literal["pixels", "latents"] = "pixels"
    """mtd: the window encoded with its unknown frames zeroed before (the paper's), or its latents with zeros in their
    place, a shortcut that encodes nothing twice; generate with the same."""
    condition_noise: float = 0.0
    """mtd: most noise on the condition, in standard deviations of a latent; a window draws its own and is told."""
    injection: Literal["symmetric", "up_only", "single_scale"] = "symmetric"
    """Where condition and mask enter a new denoiser (the paper's ablation); with --init that folder's decides."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass: less memory, more time, the same result."""
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
    """Autocast type; auto takes bf16 where that was measured faster: recent GPUs, autoencoders on CPUs with AMX.
    Weights, gradients, their sums and the loss stay fp32."""
    compile: bool = False
    """Compile the network that trains (torch.compile): slower to start, other rounding. Needs a C++ compiler."""
    seed: int = 0
    """Of new weights, and of every draw: order of the windows, noise, masks, captions, dropout."""
    checkpoint_every: int = 500
    """Steps between checkpoints; model/ is written with each."""
    keep_checkpoints: int = 2
    """Newest checkpoints that stay."""
    keep_best: bool = False
    """Also keep the checkpoint before which the mean loss since the one before it was lowest, its model in best/."""
    log_every: int = 20
    sample_every: int = 0
    """Steps between samples of the averaged weights, into RUN/samples, and their figures; 0 makes none."""
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
    sharding: Literal["none", "fsdp"] = "none"
    """fsdp shares out weights, gradients, moments and averages among the workers (FSDP2): less memory, same result."""
    max_failures: int = 3
    """How often lost workers are replaced, all from the newest checkpoint, before the training ends."""
    ray_address: str | None = None
    """Ray cluster to use; default one started on this machine."""
    engine: Literal["ray", "local"] = "ray"
    """local runs the same loop in this process, without Ray."""

    @property
    def window_length(self) -> int:
        """Frames of one window, L."""
        return DEFAULT_LENGTH if self.length is None else self.length


LARGER: dict[str, dict[str, tuple[int, int, float]]] = {
    "base": {
        "image-vae": (200_000, 32, 1e-4),
        "image": (300_000, 256, 1e-4),
        "vae": (20_000, 8, 5e-5),
        "mtd": (200_000, 32, 1e-4),
        "stunet": (200_000, 32, 1e-4),
        "ssr": (100_000, 32, 1e-4),
    },
    "large": {
        "image-vae": (500_000, 32, 1e-4),
        "image": (500_000, 512, 1e-4),
        "vae": (50_000, 8, 2e-5),
        "mtd": (300_000, 64, 5e-5),
        "stunet": (300_000, 64, 5e-5),
        "ssr": (200_000, 64, 5e-5),
    },
}
"""The same for the larger presets. Not measured here: of the order of what Stable Diffusion, Video LDM and Stable Video
Diffusion were trained with."""

DEFAULTS: dict[str, tuple[int, int, float]] = {
    "image-vae": (3000, 32, 1e-3),
    "image": (4000, 64, 1e-3),
    "vae": (300, 2, 2e-4),
    "mtd": (3000, 8, 5e-4),
    "stunet": (2000, 4, 1e-3),
    "ssr": (1500, 8, 5e-4),
}
"""Steps, batch and peak learning rate of each stage for the toy preset on two cores."""
