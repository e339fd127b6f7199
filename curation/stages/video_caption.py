"""Video captions of frames spaced evenly over a clip: by CoCa on a grid of four, or by a model of transformers.

SVD (arXiv 2311.15127, Sec. 3) captions clips with V-BLIP, that is VideoBLIP (github.com/yukw777/VideoBLIP): BLIP-2 (Li
et al., arXiv 2301.12597) whose Q-Former reads the image tokens of all frames at once.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils.logging import disable_progress_bar

from curation.coca import Decoding, decode
from curation.model_config import VideoCaptionConfig
from curation.model_files import ModelFileError, transformers_files, transformers_folder
from curation.openclip import LOADING_ERRORS, load_open_clip, placement

QUESTION = "These frames are from one video clip, in order. Say in one sentence what it shows and what happens."

Clip = np.ndarray
"""(n h w 3) uint8 RGB, in order of time."""


class VideoCaptioner:
    """Captions clips. On the CPU in float32, on a GPU in `config.gpu_dtype`; never downloads.

    Raises:
        ModelFileError: the folder is missing or damaged, or holds a model of another kind, or no processor.
    """

    def __init__(self, config: VideoCaptionConfig) -> None:
        self.config = config
        self._write: Callable[[Sequence[Clip]], list[str]] = (
            GridWriter(config) if config.model == "coca_grid" else TransformersWriter(config)
        )

    def captions(self, clips: Sequence[Clip], keys: Sequence[str]) -> list[str]:
        """n clips (n h w 3) uint8 RGB with their ids → n captions, in their order.

        Nothing is drawn at random: the ids only say whose clip cannot be captioned. Clips of one shape make a batch,
        so none is padded for another's sake.
        """
        assert len(clips) == len(keys), f"{len(clips)} clips with {len(keys)} ids"
        for clip, key in zip(clips, keys, strict=True):
            if clip.ndim != 4 or 0 in clip.shape:
                raise ValueError(f"clip {key} has no frames to caption: its pictures have the shape {clip.shape}")
        found: dict[int, str] = {}
        for places in self._batches(clips):
            batch = [np.array(clips[i]) for i in places]  # rows of a table come read-only, which torch warns of
            found |= zip(places, self._write(batch), strict=True)
        return [found[i] for i in range(len(clips))]

    def _batches(self, clips: Sequence[Clip]) -> list[list[int]]:
        """Places of the clips, by shape, at most `batch_size` together."""
        by_shape: dict[tuple[int, ...], list[int]] = {}
        for i, clip in enumerate(clips):
            by_shape.setdefault(clip.shape, []).append(i)
        size = self.config.batch_size
        return [places[i : i + size] for places in by_shape.values() for i in range(0, len(places), size)]


# --- CoCa on a grid ---------------------------------------------------------------------------------------------------


def square(image: np.ndarray) -> np.ndarray:
    """Centre square of (h w 3), the part of a frame that CLIP's own preparation looks at."""
    height, width = image.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return image[top : top + side, left : left + side]


def grid(frames: Sequence[np.ndarray]) -> np.ndarray:
    """(h w 3) in order of time → (2h 2w 3), read like text: 0 1 over 2 3; fewer than four repeat the last, of more
    four are taken evenly.
    """
    taken = np.linspace(0, len(frames) - 1, 4).round().astype(int) if len(frames) > 4 else range(len(frames))
    four = [frames[i] for i in taken]
    four += [four[-1]] * (4 - len(four))
    return rearrange(np.stack(four), "(row column) h w c -> (row h) (column w) c", row=2)


class GridWriter:
    """CoCa reads a clip as one picture of four frames."""

    def __init__(self, config: VideoCaptionConfig) -> None:
        self.clip = load_open_clip(config)
        if not hasattr(self.clip.model, "text_decoder"):
            raise ModelFileError(f"{config.weights} is not a CoCa model (it has no text decoder): choose another")
        self.how = Decoding(min_tokens=config.min_tokens, max_tokens=config.max_tokens)

    def __call__(self, clips: Sequence[Clip]) -> list[str]:
        cut = square if self.clip.crops else np.asarray
        pictures = self.clip.pictures([grid([cut(frame) for frame in clip]) for clip in clips])
        return decode(self.clip, pictures, self.how)


# --- any image-text-to-text model of transformers ---------------------------------------------------------------------


class TransformersWriter:
    """BLIP-2 with its frames joined as in VideoBLIP, or a chat model that is given the frames as pictures."""

    def __init__(self, config: VideoCaptionConfig) -> None:
        self.config = config
        self.device, self.dtype = placement(config.gpu_dtype)
        self.model, self.processor = _load(config)
        self.model.to(self.device, self.dtype).eval().requires_grad_(False)
        self.joins_frames = self.model.config.model_type == "blip-2"
        if self.joins_frames:
            _give_image_token(self.model, self.processor)
            self.model.vision_model = JoinedFrames(self.model.vision_model)
        elif not getattr(self.processor, "chat_template", None):
            raise ModelFileError(
                f"{config.weights} holds a {self.model.config.model_type} model without a chat template: choose BLIP-2 "
                "or a chat model that takes several pictures (video_caption.weights)"
            )
        elif getattr(self.processor.image_processor, "do_image_splitting", False):
            # Frames are small: tiles of them show nothing more.
            self.processor.image_processor.do_image_splitting = False

    @torch.inference_mode()
    def __call__(self, clips: Sequence[Clip]) -> list[str]:
        inputs = self._joined(clips) if self.joins_frames else self._asked(clips)
        out = self.model.generate(
            **{name: self._placed(value) for name, value in inputs.items()},
            max_new_tokens=self.config.max_tokens,
            min_new_tokens=self.config.min_tokens,
            do_sample=False,
            num_beams=1,
        )
        texts = self.processor.batch_decode(_answer(out.cpu(), inputs["input_ids"]), skip_special_tokens=True)
        return [" ".join(text.split()) for text in texts]

    def _joined(self, clips: Sequence[Clip]) -> dict[str, Tensor]:
        """Tokens of the prompt and pixel_values (b t c h w)."""
        text = [self.config.prompt or ""] * len(clips)
        inputs = dict(self.processor(images=[frame for clip in clips for frame in clip], return_tensors="pt"))
        words = self.processor(images=[clip[0] for clip in clips], text=text, return_tensors="pt")
        pixels = rearrange(inputs["pixel_values"], "(b t) c h w -> b t c h w", b=len(clips))
        return {"input_ids": words["input_ids"], "attention_mask": words["attention_mask"], "pixel_values": pixels}

    def _asked(self, clips: Sequence[Clip]) -> dict[str, Tensor]:
        """What the processor makes of a question about the frames, which are pictures of one message."""
        pictures = [{"type": "image"}] * len(clips[0])
        content = [*pictures, {"type": "text", "text": self.config.prompt or QUESTION}]
        question = self.processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True
        )
        frames = [list(clip) for clip in clips]
        return dict(self.processor(text=[question] * len(clips), images=frames, return_tensors="pt"))

    def _placed(self, value: Tensor) -> Tensor:
        return value.to(self.device, self.dtype) if value.is_floating_point() else value.to(self.device)


def _answer(out: Tensor, asked: Tensor) -> Tensor:
    """Tokens (n length) without the question that models of one stack repeat."""
    length = asked.shape[1]
    repeated = out.shape[1] >= length and bool((out[:, :length] == asked).all())
    return out[:, length:] if repeated else out


class JoinedFrames(nn.Module):
    """BLIP-2's vision model over the frames of a clip: their tokens in one row for the Q-Former, as in VideoBLIP."""

    def __init__(self, vision_model: nn.Module) -> None:
        super().__init__()
        self.vision_model = vision_model

    def forward(
        self, pixel_values: Tensor, return_dict: bool = True, interpolate_pos_encoding: bool = False
    ) -> BaseModelOutput:
        """(b t c h w) → last_hidden_state (b t·l d)."""
        frames = rearrange(pixel_values, "b t c h w -> (b t) c h w")
        hidden = self.vision_model(
            frames, return_dict=return_dict, interpolate_pos_encoding=interpolate_pos_encoding
        ).last_hidden_state  # (b·t l d)
        return BaseModelOutput(last_hidden_state=rearrange(hidden, "(b t) l d -> b (t l) d", b=len(pixel_values)))


def _give_image_token(model: Any, processor: Any) -> None:
    """What BLIP-2 and VideoBLIP folders from before transformers 4.46 lack: places for image tokens in the prompt."""
    if processor.num_query_tokens is None:
        processor.num_query_tokens = model.config.num_query_tokens
    if getattr(model.config, "image_token_index", None) is None:
        token = processor.tokenizer.convert_tokens_to_ids("<image>")
        model.config.image_token_index = model.config.image_token_id = token
        if token >= model.get_input_embeddings().num_embeddings:
            model.resize_token_embeddings(token + 1, mean_resizing=False)


def _load(config: VideoCaptionConfig) -> tuple[Any, Any]:
    """Model (float32, on the CPU) and processor of the folder."""
    folder = transformers_folder(config.weights)
    disable_progress_bar()
    if not (folder / "config.json").is_file():
        raise ModelFileError(f"{folder} is no folder of a model (config.json is missing): set video_caption.weights")
    try:
        kind = AutoConfig.from_pretrained(folder, local_files_only=True)
        if type(kind) not in AutoModelForImageTextToText._model_mapping:
            raise ModelFileError(
                f"{folder} holds a {kind.model_type} model, which reads no pictures: choose an image-text-to-text "
                "model (video_caption.weights)"
            )
        model, report = AutoModelForImageTextToText.from_pretrained(
            folder, local_files_only=True, output_loading_info=True, dtype=torch.float32
        )
    except ModelFileError:
        raise
    except LOADING_ERRORS as error:
        missing = [str(path) for path in transformers_files(folder) if not path.is_file()]
        reason = f"{', '.join(missing)} missing" if missing else " ".join(str(error).split())[:200]
        raise ModelFileError(f"the model in {folder} cannot be loaded ({reason}): restore the folder") from error
    if report["missing_keys"]:
        lost = ", ".join(sorted(report["missing_keys"])[:3])
        raise ModelFileError(f"the weights in {folder} lack {lost}: they are of another model, restore the folder")
    return model, _processor(folder)


def _processor(folder: Path) -> Any:
    try:
        processor = AutoProcessor.from_pretrained(folder, local_files_only=True)
    except (*LOADING_ERRORS, ImportError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelFileError(
            f"{folder} has no processor that can be loaded ({reason}): save the model's own beside it "
            "(processor.save_pretrained)"
        ) from error
    if not (hasattr(processor, "image_processor") and hasattr(processor, "tokenizer")):
        raise ModelFileError(
            f"{folder} has no processor, only a {type(processor).__name__}: save the model's own beside it "
            "(processor.save_pretrained)"
        )
    return processor
