"""One diffusers pipeline folder with all that generation needs: models, prompts, scheduler, sizes."""

import torch
from diffusers import DiffusionPipeline
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from transformers import PreTrainedTokenizerFast

from nuwa.hierarchy import NuwaError
from nuwa.models.mtd import MaskTemporalUNet
from nuwa.models.text import PromptEncoder
from nuwa.models.vae import TemporalVAE


class NuwaXLPipeline(DiffusionPipeline):
    """The components of NUWA-XL and the sizes they were trained at.

    `denoiser_local=None`, or the same object as `denoiser_global`, means that one network serves all levels:
    it is then stored once and `denoiser_local` reads as None; `denoiser_at(level)` gives a level's network.
    `window_length` is L in frames, `train_fps` the frame rate of training, `height`, `width` its size in px.
    """

    _optional_components = ["denoiser_local"]  # noqa: RUF012  diffusers declares it as a plain class attribute

    def __init__(
        self,
        vae: TemporalVAE,
        denoiser_global: MaskTemporalUNet,
        text_encoder: PromptEncoder,
        tokenizer: PreTrainedTokenizerFast,
        scheduler: SchedulerMixin,
        denoiser_local: MaskTemporalUNet | None = None,
        window_length: int = 16,
        train_fps: float = 8.0,
        height: int = 32,
        width: int = 32,
    ) -> None:
        super().__init__()
        self.register_modules(
            vae=vae,
            denoiser_global=denoiser_global,
            denoiser_local=None if denoiser_local is denoiser_global else denoiser_local,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            scheduler=scheduler,
        )
        self.register_to_config(window_length=window_length, train_fps=train_fps, height=height, width=width)

    def denoiser_at(self, level: int) -> MaskTemporalUNet:
        """The denoiser of `level`; the local one when it exists and the level is not the global one."""
        return self.denoiser_local if level > 0 and self.denoiser_local is not None else self.denoiser_global

    @torch.no_grad()
    def encode_prompts(self, prompts: list[str]) -> torch.Tensor:
        """Tokens of each prompt: (n_prompts, n_tokens, d), on the text encoder's device."""
        if not prompts:
            raise NuwaError("no prompt to encode; give at least one (an empty string is a prompt)")
        length = min(self.tokenizer.model_max_length, self.text_encoder.context_length)
        tokens = self.tokenizer(prompts, padding="max_length", truncation=True, max_length=length, return_tensors="pt")
        return self.text_encoder(tokens["input_ids"].to(self.text_encoder.device))


def pick_device(name: str) -> str:
    """cpu or cuda as asked for; auto is cuda if there is one. Raises NuwaError for a device this machine lacks."""
    if name == "cuda" and not torch.cuda.is_available():
        raise NuwaError("device cuda: this machine offers no CUDA device; use cpu or auto")
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return name
