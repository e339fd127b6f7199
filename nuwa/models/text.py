"""Prompt tokens from the text tower of an open_clip model (CoCa or CLIP)."""

import json
from pathlib import Path
from typing import Any, Self

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from open_clip.model import CLIPTextCfg, _build_text_tower
from safetensors import SafetensorError
from safetensors.torch import load_file

from nuwa.hierarchy import NuwaError

CONFIG_FILE = "open_clip_config.json"
WEIGHTS_FILE = "open_clip_model.safetensors"


class PromptEncoder(ModelMixin, ConfigMixin):
    """The text tower of an open_clip model; gives every token of a prompt, normalised by the tower's last layer norm.

    Frozen: its parameters ask for no gradient.

    text_config: the `text_cfg` of open_clip's model configuration
    embed_dim: width of the tower's pooled embedding, which is not used here but belongs to its weights
    """

    @register_to_config
    def __init__(self, text_config: dict[str, Any], embed_dim: int, quick_gelu: bool = False) -> None:
        super().__init__()
        text = CLIPTextCfg(**text_config)
        if text.hf_model_name:
            raise NuwaError(f"text tower {text.hf_model_name!r} is not open_clip's own; give a model whose tower is")
        self.text_model = _build_text_tower(embed_dim, text, quick_gelu)
        self.context_length, self.width = text.context_length, text.width
        self.requires_grad_(False)

    @classmethod
    def from_open_clip(cls, folder: str | Path) -> Self:
        """Read the text tower out of a folder with open_clip_config.json and open_clip_model.safetensors."""
        folder = Path(folder)
        model_config = _read_config(folder / CONFIG_FILE)
        model = cls(model_config["text_cfg"], model_config["embed_dim"], model_config["quick_gelu"])
        state = _read_text_state(folder / WEIGHTS_FILE, set(model.text_model.state_dict()))
        try:
            model.text_model.load_state_dict(state)
        except RuntimeError as error:
            reason = str(error).splitlines()[-1].strip()
            raise NuwaError(f"{folder}: weights and configuration disagree ({reason}); copy both anew") from error
        return model.eval()

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Prompt tokens (b n d) after the final layer norm.

        input_ids: (b n) int64, n ≤ `context_length`
        """
        if input_ids.ndim != 2 or input_ids.shape[1] > self.context_length:
            raise NuwaError(f"input_ids of shape {tuple(input_ids.shape)}; give (b, n), n ≤ {self.context_length}")
        output = self.text_model.forward_intermediates(
            input_ids, indices=1, normalize_intermediates=True, intermediates_only=True, output_fmt="NLC"
        )
        return output["text_intermediates"][-1]


def _read_config(path: Path) -> dict[str, Any]:
    """`model_cfg` of open_clip's configuration file."""
    try:
        config = json.loads(path.read_text())["model_cfg"]
        return {"quick_gelu": False} | {name: config[name] for name in ("text_cfg", "embed_dim")} | config
    except FileNotFoundError as error:
        raise NuwaError(f"no {path.name} in {path.parent}; give the folder of an open_clip model") from error
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise NuwaError(f"{path} is not a configuration of open_clip ({error}); copy the folder anew") from error


def _read_text_state(path: Path, keys: set[str]) -> dict[str, torch.Tensor]:
    """Weights of the text tower: under `text.` in CoCa, at the top in plain CLIP."""
    try:
        state = load_file(path)
    except FileNotFoundError as error:
        raise NuwaError(f"no {path.name} in {path.parent}; give the folder of an open_clip model") from error
    except SafetensorError as error:
        raise NuwaError(f"{path} cannot be read ({error}); copy the file anew") from error
    prefixed = {key.removeprefix("text."): value for key, value in state.items() if key.startswith("text.")}
    return prefixed or {key: value for key, value in state.items() if key in keys}
