"""Presets: every stage has its numbers, their sizes are those the page states; on the meta device, without weights."""

import dataclasses
import re
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn

from nuwa.models.mtd import MaskTemporalUNet
from nuwa.models.vae import TemporalVAE
from nuwa.train.components import PRESETS, image_unet, image_vae
from nuwa.train.config import DEFAULTS, LARGER, TrainConfig
from nuwa.train.config_checks import resolve
from nuwa.train.init_folder import FIRST_WIDTHS

TEXT = (Path(__file__).parents[2] / "docs/training.md").read_text("utf-8")
TEXT_WIDTHS = {"toy": 128, "base": 768, "large": 768}


def count(module: nn.Module) -> float:
    """Weights, in millions."""
    return sum(weight.numel() for weight in module.parameters()) / 1e6


@pytest.mark.parametrize("preset", list(PRESETS))
def test_sizes_are_those_the_page_states(preset: str) -> None:
    sizes = PRESETS[preset]
    with torch.device("meta"):
        vae, unet = image_vae(sizes, 256), image_unet(sizes, 32, TEXT_WIDTHS[preset])
        networks = (vae, unet, TemporalVAE.from_image_vae(vae), MaskTemporalUNet.from_unet(unet))
    row = re.search(rf"^\| `{preset}` \|(.*)\|$", TEXT, re.MULTILINE)
    assert row is not None
    assert [float(cell) for cell in row[1].split("|")[1:]] == [float(f"{count(part):.3g}") for part in networks]


def test_large_is_stable_diffusion() -> None:
    sizes = PRESETS["large"]
    with torch.device("meta"):
        ours = image_unet(sizes, 64, 768), image_vae(sizes, 512)
        theirs = (
            UNet2DConditionModel(sample_size=64, cross_attention_dim=768),
            AutoencoderKL(
                block_out_channels=(128, 256, 512, 512),
                down_block_types=("DownEncoderBlock2D",) * 4,
                up_block_types=("UpDecoderBlock2D",) * 4,
                layers_per_block=2,
            ),
        )
    assert (round(count(ours[0]) * 1e6), round(count(ours[1]) * 1e6)) == (859_520_964, 83_653_863)
    for one, other in zip(ours, theirs, strict=True):
        assert {k: v.shape for k, v in one.state_dict().items()} == {k: v.shape for k, v in other.state_dict().items()}


@pytest.mark.parametrize("preset", list(PRESETS))
@pytest.mark.parametrize("stage", ["image-vae", "image", "vae", "mtd"])
def test_every_stage_has_numbers_of_its_own_for_every_preset(preset: str, stage: str) -> None:
    config = TrainConfig(stage=stage, dataset=Path("ds"), output=Path("run"), preset=preset)  # type: ignore[arg-type]
    found = resolve(config)
    assert (found.steps, found.batch, found.lr) == {"toy": DEFAULTS, **LARGER}[preset][stage]


@pytest.mark.parametrize("preset", list(PRESETS))
def test_networks_of_init_have_the_numbers_of_the_preset_of_their_size(preset: str, tmp_path: Path) -> None:
    with torch.device("meta"):
        unet = image_unet(PRESETS[preset], 32, 768)
        model = MaskTemporalUNet.from_unet(unet)
    unet.save_config(tmp_path / "image/unet")
    model.save_config(tmp_path / "ours/denoiser_global")
    config = TrainConfig(stage="mtd", dataset=Path("ds"), output=Path("run"))
    wanted = {"toy": DEFAULTS, **LARGER}[preset]["mtd"]
    for init in ("image", "ours"):
        found = resolve(dataclasses.replace(config, init=tmp_path / init))
        assert (found.steps, found.batch, found.lr) == wanted
    assert FIRST_WIDTHS[preset] <= PRESETS[preset].unet_channels[0]
