"""The prompt encoder is the text tower of an open_clip model, token by token."""

import json
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from open_clip.coca_model import CoCa
from safetensors.torch import save_file

from nuwa.hierarchy import NuwaError
from nuwa.models.text import PromptEncoder

TEXT: dict[str, Any] = {
    "context_length": 16,
    "vocab_size": 20,
    "width": 12,
    "heads": 2,
    "layers": 2,
    "embed_cls": True,
    "output_tokens": True,
}
COCA: dict[str, Any] = {
    "embed_dim": 10,
    "vision_cfg": {
        "image_size": 16,
        "patch_size": 8,
        "width": 12,
        "layers": 1,
        "head_width": 6,
        "attentional_pool": True,
        "attn_pooler_queries": 4,
        "attn_pooler_heads": 2,
        "output_tokens": True,
    },
    "text_cfg": TEXT,
    "multimodal_cfg": {"context_length": 16, "vocab_size": 20, "width": 12, "heads": 2, "layers": 1},
}
IDS = torch.tensor([[1, 5, 6, 7, 2] + [0] * 11, [1, 9, 2] + [0] * 13])


def save(folder: Path, model: torch.nn.Module, config: dict[str, Any]) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
    save_file(
        {key: value.contiguous() for key, value in model.state_dict().items()}, folder / "open_clip_model.safetensors"
    )
    return folder


@pytest.fixture
def coca() -> CoCa:
    torch.manual_seed(0)
    return CoCa(**COCA).eval()


def test_tokens_of_coca_are_those_of_its_tower_after_the_final_layer_norm(coca: CoCa, tmp_path: Path) -> None:
    encoder = PromptEncoder.from_open_clip(save(tmp_path, coca, COCA))
    _, tokens = coca.text(IDS)
    assert torch.equal(encoder(IDS), coca.text.ln_final(tokens))
    assert encoder(IDS).shape == (2, 16, 12)
    assert encoder(IDS[:, :5]).shape == (2, 5, 12)


def test_tokens_of_plain_clip_are_those_of_its_text_tower(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = {key: value for key, value in COCA.items() if key != "multimodal_cfg"}
    config["text_cfg"] = {key: value for key, value in TEXT.items() if key not in ("embed_cls", "output_tokens")}
    config["vision_cfg"] = {"image_size": 16, "patch_size": 8, "width": 12, "layers": 1, "head_width": 6}
    clip = open_clip.CLIP(**config).eval()
    encoder = PromptEncoder.from_open_clip(save(tmp_path, clip, config))
    seen = []
    clip.ln_final.register_forward_hook(lambda *hook: seen.append(hook[-1]))
    clip.encode_text(IDS)
    assert torch.equal(encoder(IDS), seen[0])


def test_later_tokens_do_not_change_earlier_ones(coca: CoCa, tmp_path: Path) -> None:
    encoder = PromptEncoder.from_open_clip(save(tmp_path, coca, COCA))
    changed = IDS.clone()
    changed[0, 3] = 11
    difference = (encoder(changed) - encoder(IDS)).abs().amax(dim=-1)
    assert difference[0, :3].max() == 0
    assert difference[0, 3] > 0


def test_it_is_frozen_also_after_loading_and_the_round_trip_is_bitwise(coca: CoCa, tmp_path: Path) -> None:
    encoder = PromptEncoder.from_open_clip(save(tmp_path / "coca", coca, COCA))
    encoder.save_pretrained(tmp_path / "text_encoder")
    back = PromptEncoder.from_pretrained(tmp_path / "text_encoder")
    assert (tmp_path / "text_encoder" / "diffusion_pytorch_model.safetensors").exists()
    assert torch.equal(back(IDS), encoder(IDS))
    assert not any(parameter.requires_grad for each in (encoder, back) for parameter in each.parameters())
    assert not back.training


def test_what_is_missing_or_broken_is_named(coca: CoCa, tmp_path: Path) -> None:
    with pytest.raises(NuwaError, match=r"no open_clip_config\.json"):
        PromptEncoder.from_open_clip(tmp_path)
    folder = save(tmp_path, coca, COCA)
    weights = folder / "open_clip_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(NuwaError, match="cannot be read"):
        PromptEncoder.from_open_clip(folder)
    weights.unlink()
    with pytest.raises(NuwaError, match=r"no open_clip_model\.safetensors"):
        PromptEncoder.from_open_clip(folder)
    save(folder, coca, COCA | {"text_cfg": TEXT | {"vocab_size": 21}})
    with pytest.raises(NuwaError, match="disagree"):
        PromptEncoder.from_open_clip(folder)
    (folder / "open_clip_config.json").write_text("{}")
    with pytest.raises(NuwaError, match="not a configuration"):
        PromptEncoder.from_open_clip(folder)


def test_prompts_longer_than_the_tower_are_refused(coca: CoCa, tmp_path: Path) -> None:
    encoder = PromptEncoder.from_open_clip(save(tmp_path, coca, COCA))
    with pytest.raises(NuwaError, match="n ≤ 16"):
        encoder(torch.zeros(1, 17, dtype=torch.long))
