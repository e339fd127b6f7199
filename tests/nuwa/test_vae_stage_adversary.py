"""The discriminator of the autoencoder stages: its loss, its balance, its start, and that it resumes."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from nuwa.hierarchy import NuwaError
from nuwa.models.discriminator import (
    PatchDiscriminator,
    adaptive_weight,
    adversarial_loss,
    hinge_loss,
    layers_for,
)
from nuwa.train.autoencoder_loss import AutoencoderLoss
from nuwa.train.config_checks import resolve
from nuwa.train.loop import train
from nuwa.train.run_folder import steps_in
from tests.nuwa.vae_training import CPU, made, scalars_of, stage_of, stored, write_world


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_world(tmp_path_factory.mktemp("world"))


def test_hinge_loss_by_hand() -> None:
    """½ mean(max(0, 1 − real)) + ½ mean(max(0, 1 + fake)): ½ (0 + 0.5)/2 + ½ (0 + 3)/2."""
    real, fake = torch.tensor([2.0, 0.5]), torch.tensor([-1.5, 2.0])
    assert hinge_loss(real, fake).item() == pytest.approx(0.125 + 0.75)
    assert adversarial_loss(fake).item() == pytest.approx(-0.25)


def test_adaptive_weight_makes_both_terms_pull_equally_hard() -> None:
    layer = torch.tensor([1.0, 2.0], requires_grad=True)
    reconstruction, adversarial = (3 * layer).sum(), (0.5 * layer).sum()
    weight = adaptive_weight(reconstruction, adversarial, layer)
    assert weight.item() == pytest.approx(6.0, rel=1e-3)
    assert not weight.requires_grad
    assert adaptive_weight(reconstruction, 0 * layer.sum(), layer).item() == 1e4


def test_discriminator_judges_patches_and_videos_apart() -> None:
    torch.manual_seed(0)
    discriminator, video = PatchDiscriminator(width=8, temporal_kernel=3), torch.randn(2, 3, 4, 32, 32)
    logits = discriminator(video)
    assert logits.shape == (2, 1, 4, 2, 2)
    assert torch.allclose(discriminator(video[1:]), logits[1:], atol=1e-5)
    assert layers_for(256, 256) == 3
    assert layers_for(16, 64) == 2
    assert PatchDiscriminator(width=8, layers=layers_for(6, 9))(torch.randn(1, 3, 1, 6, 9)).shape[-2:] == (1, 2)
    with pytest.raises(NuwaError, match="frames of 64x5 px are too small"):
        layers_for(5, 64)


def test_discriminator_of_windows_sees_neighbouring_frames_and_that_of_images_does_not(
    world: Path, tmp_path: Path
) -> None:
    for stage, kernel in (("image-vae", 1), ("vae", 3)):
        adversary = stage_of(made(world, tmp_path, stage=stage, adversarial_weight=0.5)).adversary
        assert adversary is not None
        convolutions = [module for module in adversary.module.modules() if isinstance(module, torch.nn.Conv3d)]
        assert {convolution.kernel_size[0] for convolution in convolutions} == {kernel}
    torch.manual_seed(0)
    video = torch.randn(1, 3, 9, 24, 24)
    changed = video.clone()
    changed[:, :, 4] += 1
    for kernel, reached in ((1, 0), (3, 4)):
        blocks = PatchDiscriminator(width=8, layers=2, temporal_kernel=kernel).blocks
        convolutions = torch.nn.Sequential(*[block for block in blocks if not isinstance(block, torch.nn.GroupNorm)])
        moved = (convolutions(video) - convolutions(changed)).abs().amax(dim=(0, 1, 3, 4)).nonzero().flatten()
        assert moved.tolist() == list(range(4 - reached, 4 + reached + 1))


@pytest.mark.parametrize("balance", ["adaptive", "fixed"])
def test_the_adversarial_term_is_what_it_says(world: Path, tmp_path: Path, balance: str) -> None:
    config = made(world, tmp_path / "run", adversarial_weight=0.5, adversarial_balance=balance)
    stage = stage_of(config)
    samples = [stage.data[0], stage.data[1]]
    quiet = stage.losses(samples, range(2))
    assert "discriminator" not in quiet
    assert stage.adversary is not None
    stage.adversary.playing = True
    losses = stage.losses(samples, range(2))
    scale = losses["adversarial_scale"].item()
    assert (scale == 1.0) == (balance == "fixed")
    assert losses["loss"].item() == pytest.approx(
        (quiet["loss"] + 0.5 * scale * losses["adversarial"]).item(), rel=1e-5
    )
    losses["loss"].backward(retain_graph=True)
    assert all(weight.grad is None for weight in stage.adversary.module.parameters())
    stage.module.zero_grad()
    losses["discriminator"].backward()
    assert all(weight.grad is not None for weight in stage.adversary.module.parameters())
    assert all(weight.grad is None for weight in stage.module.parameters())


def test_the_adaptive_weight_balances_reconstruction_with_lpips(world: Path, tmp_path: Path) -> None:
    options = {"lpips_weights": world / "lpips.safetensors", "perceptual_weight": 3.0}
    stage = stage_of(made(world, tmp_path / "run", adversarial_weight=0.5, **options))
    assert stage.adversary is not None
    stage.adversary.playing = True
    losses = stage.losses([stage.data[0]], range(1))
    layer = stage.module.decoder.conv_out_time.weight
    (wanted,) = torch.autograd.grad(losses["l1"] + 3 * losses["lpips"], layer, retain_graph=True)
    (other,) = torch.autograd.grad(losses["adversarial"], layer, retain_graph=True)
    assert losses["adversarial_scale"].item() == pytest.approx((wanted.norm() / (other.norm() + 1e-4)).item(), rel=1e-5)


def test_a_discriminator_is_the_same_in_every_worker_and_takes_no_global_random_numbers(
    world: Path, tmp_path: Path
) -> None:
    config, made_by = made(world, tmp_path, adversarial_weight=0.5), []
    for seed in (1, 2):
        torch.manual_seed(seed)
        state = torch.get_rng_state()
        loss = AutoencoderLoss(config, (16, 16), CPU)
        assert torch.equal(torch.get_rng_state(), state)
        assert loss.adversary is not None
        made_by.append(loss.adversary.module.state_dict())
    assert all(torch.equal(weight, made_by[1][name]) for name, weight in made_by[0].items())


@pytest.mark.parametrize(("stage", "start"), [("image-vae", 0), ("vae", 3)])
def test_two_steps_and_two_more_equal_four_with_every_term(world: Path, tmp_path: Path, stage: str, start: int) -> None:
    """Bit for bit, the discriminator's weights and moments too, whether it starts before the resume or after it."""
    options = {
        "stage": stage,
        "lpips_weights": world / "lpips.safetensors",
        "adversarial_weight": 0.5,
        "adversarial_start": start,
    }
    train(made(world, tmp_path / "one", **options), lambda _: None)
    train(made(world, tmp_path / "two", **options), lambda _: None, until=2)
    assert steps_in(tmp_path / "two/checkpoints") == [2]
    train(made(world, tmp_path / "two", **options), lambda _: None)
    one, two = stored(tmp_path / "one"), stored(tmp_path / "two")
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
    moments = [name for name in one if name.startswith("optimizer/exp_avg/adversary.")]
    assert len(moments) == len([name for name in one if name.startswith("weights/adversary.")]) > 5
    assert not any(name.startswith("ema/adversary.") for name in one)


def test_the_discriminator_starts_after_the_steps_given(world: Path, tmp_path: Path) -> None:
    config = made(world, tmp_path / "run", adversarial_weight=0.5, adversarial_start=2)
    seen = scalars_of(config)
    assert ["discriminator" in scalars for scalars in seen] == [False, False, True, True]
    plain = scalars_of(made(world, tmp_path / "plain"))
    assert [scalars["loss"] for scalars in seen[:2]] == [scalars["loss"] for scalars in plain[:2]]
    assert seen[3]["loss"] != plain[3]["loss"]


def test_the_discriminator_learns_to_tell_and_is_no_part_of_the_model(world: Path, tmp_path: Path) -> None:
    config = made(world, tmp_path / "run", adversarial_weight=0.1, steps=15, lr=2e-3, stage="image-vae", batch=4)
    seen = scalars_of(config)
    assert seen[0]["discriminator"] == pytest.approx(1.0, abs=0.2)
    assert seen[-1]["discriminator"] < 0.5 * seen[0]["discriminator"]
    keys = load_file(tmp_path / "run/model/vae/diffusion_pytorch_model.safetensors").keys()
    assert keys == load_file(world / "tiny/vae/diffusion_pytorch_model.safetensors").keys()


def test_every_term_trains_in_bfloat16(world: Path, tmp_path: Path) -> None:
    options = {"lpips_weights": world / "lpips.safetensors", "adversarial_weight": 0.5, "precision": "bf16"}
    for scalars in scalars_of(made(world, tmp_path / "run", steps=2, **options)):
        assert all(torch.isfinite(torch.tensor(value)) for value in scalars.values()), scalars


@pytest.mark.ray
def test_two_workers_and_their_discriminator_are_one_with_the_same_windows(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each term is a mean over rows, so gradients averaged over workers are those of the whole batch.

    Compared are first moments after a step, which follow the gradient's size; the weights hardly show it.
    """
    from nuwa.train.ray_trainer import fit

    monkeypatch.chdir(world)  # workers have working directories of their own
    options = {"adversarial_weight": 0.5, "adversarial_balance": "fixed", "steps": 1, "clip_norm": 1e9}
    options["lpips_weights"] = Path("lpips.safetensors")
    train(made(world, tmp_path / "one", batch=2, **options), lambda _: None)
    fit(resolve(made(world, tmp_path / "two", batch=2, workers=2, engine="ray", **options)))
    one, two = stored(tmp_path / "one"), stored(tmp_path / "two")
    moments = [name for name in one if name.startswith("optimizer/exp_avg/")]
    assert any("adversary." in name for name in moments)
    for name in moments:
        assert (one[name] - two[name]).norm() < 1e-3 * one[name].norm() + 1e-7, name
