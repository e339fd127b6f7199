"""Joint batches: rows of images beside windows, which the temporal layers do not mix."""

from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from einops import rearrange
from torch import nn

from nuwa.data.runs import read_runs
from nuwa.data.windows import WindowSample
from nuwa.generate.pipeline_folder import load_pipeline, save_pipeline
from nuwa.hierarchy import NuwaError
from nuwa.models.mtd import MaskTemporalUNet
from nuwa.models.stunet import SpaceTimeUNet
from nuwa.nn.frames import fold, unfold
from nuwa.nn.temporal_attention import TemporalAttention
from nuwa.nn.temporal_conv import TemporalConv
from nuwa.train.config import TrainConfig, TrainError
from nuwa.train.config_checks import resolve
from nuwa.train.loop import Progress, train
from nuwa.train.mtd_stage import MtdStage
from nuwa.train.stages import pixels_of
from tests.nuwa.small_training import small_training
from tests.nuwa.stack import build
from tests.nuwa.tiny_dataset import write_dataset
from tests.nuwa.vae_training import stored

CPU = torch.device("cpu")
FRAMES = 5
MIXES = torch.tensor([True, False, True])
Inputs = dict[str, torch.Tensor]


def shaken(module: nn.Module) -> nn.Module:
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in module.parameters():
            weight += 0.1 * torch.randn(weight.shape)
    return module


def temporal_layers() -> list[nn.Module]:
    return [shaken(TemporalConv(8)), shaken(TemporalConv(8, 5)), shaken(TemporalAttention(8, 2))]


@pytest.mark.parametrize("layer", temporal_layers(), ids=["conv of 3", "conv of 5", "attention"])
def test_a_layer_sees_each_image_alone_and_other_rows_as_before(layer: nn.Module) -> None:
    video = torch.randn(3, 8, FRAMES, 4, 4, dtype=torch.float64)
    layer = layer.double()
    plain, joint = layer(fold(video), FRAMES), unfold(layer(fold(video), FRAMES, MIXES), FRAMES)
    assert torch.equal(joint[MIXES], unfold(plain, FRAMES)[MIXES])
    assert torch.equal(layer(fold(video), FRAMES, torch.ones(3, dtype=torch.bool)), plain)
    alone = layer(fold(rearrange(video[1:2], "1 c t h w -> t c 1 h w")), 1)
    assert (rearrange(joint[1], "c t h w -> t c h w") - alone).abs().max() < 1e-12
    assert (joint[1] - unfold(plain, FRAMES)[1]).abs().max() > 1e-3


def mtd() -> MaskTemporalUNet:
    return build().denoiser_global.double()


def stunet(temporal_levels: int | None = None) -> SpaceTimeUNet:
    unet = UNet2DConditionModel(
        sample_size=8,
        down_block_types=("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2,
        block_out_channels=(8, 16),
        layers_per_block=1,
        cross_attention_dim=8,
        attention_head_dim=2,
        norm_num_groups=4,
    )
    return shaken(SpaceTimeUNet.from_unet(unet, temporal_levels)).double()  # type: ignore[return-value]


def inputs(per_frame: bool = True) -> Inputs:
    torch.manual_seed(2)
    prompts = (3, FRAMES, 6, 8) if per_frame else (3, 6, 8)
    ids = torch.tensor([[8.0, 0.1, 0.0], [torch.nan] * 3, [8.0, 0.2, 0.0]], dtype=torch.float64)
    return {
        "sample": torch.randn(3, 4, FRAMES, 8, 8, dtype=torch.float64),
        "timestep": torch.tensor([10, 500, 900]),
        "encoder_hidden_states": torch.randn(prompts, dtype=torch.float64),
        "condition": torch.randn(3, 4, FRAMES, 8, 8, dtype=torch.float64),
        "mask": torch.ones(3, 1, FRAMES, 8, 8, dtype=torch.float64),
        "stride": torch.tensor([15.0, 1.0, 1.0]),
        "added_time_ids": ids,
    }


def frame_by_frame(given: Inputs, row: int) -> Inputs:
    """The frames of a row as clips of one frame."""
    frames = {name: rearrange(given[name][row], "c t h w -> t c 1 h w") for name in ("sample", "condition", "mask")}
    per_row = {name: given[name][row].expand(FRAMES, *given[name][row].shape) for name in ("timestep", "stride")}
    prompts = given["encoder_hidden_states"][row]
    own = prompts[:, None] if prompts.ndim == 3 else prompts.expand(FRAMES, *prompts.shape)
    ids = given["added_time_ids"][row].expand(FRAMES, 3)
    return frames | per_row | {"encoder_hidden_states": own, "added_time_ids": ids}


@pytest.mark.parametrize("per_frame", [True, False], ids=["prompt per frame", "prompt per row"])
@pytest.mark.parametrize("make", [mtd, stunet])
@torch.no_grad()
def test_a_row_of_images_is_the_network_frame_by_frame(make: type, per_frame: bool) -> None:
    model, given = make(), inputs(per_frame)
    joint = model(**given, mixes_frames=MIXES)
    alone = model(**frame_by_frame(given, 1))
    assert (rearrange(joint[1], "c t h w -> t c 1 h w") - alone).abs().max() < 1e-10
    plain = model(**given)
    assert (joint[1] - plain[1]).abs().max() > 1e-3
    assert torch.allclose(joint[MIXES], plain[MIXES], rtol=0, atol=1e-12)


@torch.no_grad()
def test_windows_beside_images_are_the_same_to_the_last_bit() -> None:
    model, given = build().denoiser_global, {k: v.float() for k, v in inputs().items()}
    assert torch.equal(model(**given, mixes_frames=MIXES)[MIXES], model(**given)[MIXES])
    assert torch.equal(model(**given, mixes_frames=torch.ones(3, dtype=torch.bool)), model(**given))


@pytest.mark.parametrize("make", [mtd, stunet])
def test_no_frame_of_a_row_of_images_knows_another(make: type) -> None:
    """Through all temporal layers at once: the cross-frame Jacobian is exactly zero, that of a window is not."""
    model, given = make(), inputs()
    sample = given["sample"].requires_grad_()
    output = model(**given, mixes_frames=MIXES)
    for row, mixes in enumerate(MIXES.tolist()):
        (gradient,) = torch.autograd.grad(output[row, :, 2].square().sum(), sample, retain_graph=True)
        of_others = gradient[row, :, [0, 1, 3, 4]].abs()
        assert (of_others.sum() > 0) == mixes
        assert gradient[row, :, 2].abs().sum() > 0


@pytest.mark.parametrize("make", [mtd, stunet])
def test_images_teach_temporal_layers_the_centre_of_their_kernels_only(make: type) -> None:
    model = make().requires_grad_(True)
    model(**inputs(), mixes_frames=MIXES)[~MIXES].square().sum().backward()
    for name, layer in model.named_modules():
        if isinstance(layer, TemporalConv):
            assert layer.weight.grad[:, :, 1].abs().sum() > 0, name
            assert layer.weight.grad[:, :, [0, 2]].abs().sum() == 0, name
        if isinstance(layer, TemporalAttention):
            query, key, value = layer.to_qkv.weight.grad.chunk(3)
            assert query.abs().max() + key.abs().max() < 1e-12, name
            assert value.abs().max() > 1e-3, name


def test_checkpointing_gives_the_same_gradient_of_a_joint_batch() -> None:
    gradients = []
    for saving in (False, True):
        model = build().denoiser_global.train().requires_grad_(True)
        if saving:
            model.enable_gradient_checkpointing()
        given = {name: tensor.float() for name, tensor in inputs().items()}
        model(**given, mixes_frames=MIXES).square().mean().backward()
        gradients.append([weight.grad for weight in model.parameters()])
    assert all(torch.equal(one, two) for one, two in zip(*gradients, strict=True))


@pytest.mark.parametrize("make", [mtd, stunet])
@pytest.mark.parametrize("mixes", [MIXES[:2], MIXES.float()], ids=["too few", "numbers"])
def test_anything_but_one_yes_or_no_per_row_is_refused(make: type, mixes: torch.Tensor) -> None:
    with pytest.raises(NuwaError, match=r"mixes_frames of shape \((2|3),\), .*; give \(3,\), bool"):
        make()(**inputs(), mixes_frames=mixes)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    write_dataset(folder / "ds", [24, 20, 14, 13, 12])
    save_pipeline(build(), folder / "tiny")
    return folder


def made(world: Path, output: Path, **changes: object) -> TrainConfig:
    return resolve(small_training(world, output, **({"batch": 4, "image_frac": 0.25} | changes)))


def stage_of(world: Path, **changes: object) -> MtdStage:
    return MtdStage(made(world, Path("unused"), **changes), load_pipeline(world / "tiny"), read_runs(world / "ds"), CPU)


def row_of_images(stage: MtdStage) -> WindowSample:
    return stage.data[len(stage.data) - 1]


def test_a_row_of_images_is_encoded_frame_by_frame_and_knows_nothing(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = stage_of(world, prompt_dropout=0.0, condition_dropout=0.0)
    samples, seen = [stage.data[0], row_of_images(stage)], []
    monkeypatch.setattr(stage.diffusion, "loss", lambda *inputs: seen.append(inputs) or torch.zeros(2))
    assert {"loss", "loss/level_0", "loss/images"} <= set(stage.losses(samples, range(2)))
    denoiser, z0, _, _, condition, mask, stride, ids = seen[0]
    assert denoiser.keywords["mixes_frames"].tolist() == [True, False]
    assert stride.tolist() == [3, 1]
    assert mask[1].abs().sum() + condition[1].abs().sum() == 0
    assert ids[0].isfinite().all()
    assert ids[1, :2].isnan().all()
    pixels = rearrange(pixels_of(samples[1].frames[None], CPU), "1 c t h w -> t c 1 h w")
    with torch.no_grad():
        alone = stage.vae.encode(pixels).mode() * stage.vae.config.scaling_factor
    assert torch.allclose(z0[1], rearrange(alone, "t c 1 h w -> c t h w"), atol=1e-2)  # kept as float16


def test_without_images_in_a_batch_the_network_is_called_as_ever(world: Path) -> None:
    stage = stage_of(world)
    assert stage._denoiser([stage.data[0]]) is stage.module
    assert stage_of(world, image_frac=0.0).pattern == (0, 1)


def test_joint_training_goes_on_bitwise(world: Path, tmp_path: Path) -> None:
    """Resumed training with joint batches is the same to the last bit."""
    whole, halves = (made(world, tmp_path / name, steps=2) for name in ("whole", "halves"))
    seen: list[Progress] = []
    train(whole, seen.append)
    train(halves, lambda _: None, until=1)
    train(halves, lambda _: None)
    one, two = stored(whole.output), stored(halves.output)
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert all("loss/images" in progress.scalars for progress in seen)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_frac": 1.0}, "image_frac is 1, which leaves no windows"),
        ({"image_frac": -0.1}, "image_frac is -0.1; it must lie between 0 and 1"),
        ({"image_frac": 0.5, "stage": "vae"}, "image_frac is 0.5, but stage vae does nothing with it"),
        ({"latents": Path("latents")}, "image_frac is 0.25, but folders of latents hold windows only"),
    ],
)
def test_images_where_none_can_be_are_refused(world: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(TrainError, match=message):
        made(world, Path("unused"), **changes)
