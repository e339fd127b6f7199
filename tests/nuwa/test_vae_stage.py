"""The autoencoder stages: which weights train, what the loss is made of, and that the discriminator resumes."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file

from nuwa.data.runs import read_runs
from nuwa.generate.pipeline_folder import load_pipeline, save_pipeline
from nuwa.hierarchy import NuwaError
from nuwa.models.discriminator import (
    PatchDiscriminator,
    adaptive_weight,
    adversarial_loss,
    hinge_loss,
    layers_for,
)
from nuwa.models.perceptual import Lpips
from nuwa.models.vae import TemporalVAE
from nuwa.train.autoencoder_loss import AutoencoderLoss
from nuwa.train.checkpoint import steps_in
from nuwa.train.config import TrainConfig, TrainError, VaeTrains, resolve
from nuwa.train.image_vae_stage import ImageVaeStage
from nuwa.train.loop import Trainer, train
from nuwa.train.vae_stage import VaeStage, choose_weights
from pipelines import cli
from pipelines.train import Train, main, whole_config
from tests.nuwa.stack import build
from tests.nuwa.tiny_dataset import write_dataset

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `ds`, a dataset, `tiny`, a small random pipeline, and `lpips`, weights of the true layout."""
    folder = tmp_path_factory.mktemp("world")
    write_dataset(folder / "ds", [24, 20])
    save_pipeline(build(), folder / "tiny")
    torch.manual_seed(0)
    state = Lpips().state_dict()
    heads = {f"lin{n}.model.1.weight": torch.rand_like(state.pop(f"heads.{n}")) for n in range(5)}
    save_file(state | heads, folder / "lpips.safetensors")
    return folder


def made(world: Path, output: Path, **changes: object) -> TrainConfig:
    small = TrainConfig(
        stage="vae",
        dataset=world / "ds",
        output=output,
        init=world / "tiny",
        length=4,
        depth=2,
        steps=4,
        batch=2,
        warmup=1,
        log_every=1,
        threads=1,
        engine="local",
        precision="fp32",
    )
    return dataclasses.replace(small, **changes)  # type: ignore[arg-type]


def stage_of(config: TrainConfig) -> VaeStage | ImageVaeStage:
    config = resolve(config)
    kind = VaeStage if config.stage == "vae" else ImageVaeStage
    return kind(config, load_pipeline(config.init), read_runs(config.dataset), CPU)


def scalars_of(config: TrainConfig, until: int | None = None) -> list[dict[str, float]]:
    seen: list[dict[str, float]] = []
    train(config, lambda progress: seen.append(progress.scalars), until=until)
    return seen


def stored(run: Path) -> dict[str, torch.Tensor]:
    folder = run / "checkpoints" / f"step-{steps_in(run / 'checkpoints')[-1]:06d}"
    return {
        f"{part}/{name}": tensor
        for part in ("weights", "ema", "optimizer")
        for name, tensor in load_file(folder / f"{part}.safetensors").items()
    }


def is_temporal(name: str) -> bool:
    return "_time." in name


def expected(trains: str, name: str) -> bool:
    """What each choice says of one weight."""
    return {
        "temporal": is_temporal(name),
        "decoder": name.startswith(("decoder.", "post_quant_conv.")),
        "temporal+decoder": is_temporal(name) or not name.startswith("encoder."),
        "all": True,
    }[trains]


@pytest.mark.parametrize("trains", ["temporal", "decoder", "temporal+decoder", "all"])
def test_exactly_the_chosen_weights_change_after_a_step(world: Path, tmp_path: Path, trains: str) -> None:
    config = resolve(made(world, tmp_path / "run", vae_trains=trains, weight_decay=0.1))
    stage = stage_of(config)
    before = {name: weight.clone() for name, weight in stage.module.state_dict().items()}
    trainer = Trainer(config, stage)
    # Weight decay moves also the weights whose gradient happens to be zero.
    trainer.take_step([stage.data[index] for index in (0, len(stage.data) - 1)])
    after = stage.module.state_dict()
    assert before.keys() == after.keys()
    for name, weight in before.items():
        assert (not torch.equal(weight, after[name])) == expected(trains, name), name


@pytest.mark.parametrize("trains", ["temporal", "decoder", "temporal+decoder", "all"])
def test_weights_are_chosen_too_where_there_are_no_quant_convolutions(trains: VaeTrains) -> None:
    image = AutoencoderKL(block_out_channels=(8,), norm_num_groups=4, use_quant_conv=False, use_post_quant_conv=False)
    vae = TemporalVAE.from_image_vae(image)
    choose_weights(vae, trains)
    for name, weight in vae.named_parameters():
        assert weight.requires_grad == expected(trains, name), name
    choose_weights(vae, "temporal")
    assert all(weight.requires_grad == is_temporal(name) for name, weight in vae.named_parameters())


def test_todays_choice_is_the_default() -> None:
    assert TrainConfig(stage="vae", dataset=Path(), output=Path()).vae_trains == "temporal+decoder"


def test_a_decoder_trained_alone_reads_the_same_latents(world: Path, tmp_path: Path) -> None:
    """Video LDM's fine-tuning: encoder and `quant_conv` stay, to the last bit."""
    train(made(world, tmp_path / "run", vae_trains="decoder"), lambda _: None)
    before, after = (load_pipeline(folder).vae for folder in (world / "tiny", tmp_path / "run/model"))
    video = torch.rand(1, 3, 4, 16, 16) * 2 - 1
    with torch.no_grad():
        latents = before.encode(video).mean
        assert torch.equal(latents, after.encode(video).mean)
        assert not torch.equal(before.decode(latents), after.decode(latents))


def test_the_plain_loss_is_mean_absolute_error_and_kl(world: Path, tmp_path: Path) -> None:
    """By hand: |1 − 0.5| + 0.01 · ½(2² + 1 − 1 − 0) for mean 2 and unit variance."""
    loss = AutoencoderLoss(made(world, tmp_path, kl_weight=0.01), (16, 16), CPU)
    posterior = build().vae.encode(torch.zeros(1, 3, 2, 16, 16))
    posterior = dataclasses.replace(
        posterior, mean=torch.full_like(posterior.mean, 2), logvar=torch.zeros_like(posterior.mean)
    )
    losses = loss(torch.ones(1, 3, 2, 16, 16), torch.full((1, 3, 2, 16, 16), 0.5), posterior, torch.ones(1))
    assert losses.keys() == {"loss", "l1", "kl", "psnr"}
    assert losses["loss"].item() == pytest.approx(0.5 + 0.01 * 2)


@pytest.mark.parametrize("stage", ["image-vae", "vae"])
def test_lpips_adds_its_weighted_mean_over_frames(world: Path, tmp_path: Path, stage: str) -> None:
    config = made(
        world, tmp_path / "run", stage=stage, lpips_weights=world / "lpips.safetensors", perceptual_weight=2.0
    )
    with_lpips, without = stage_of(config), stage_of(dataclasses.replace(config, lpips_weights=None))
    samples = [with_lpips.data[0], with_lpips.data[1]]
    losses, plain = with_lpips.losses(samples, range(2)), without.losses(samples, range(2))
    assert losses["l1"] == plain["l1"]
    assert losses["lpips"] > 0
    assert losses["loss"].item() == pytest.approx((plain["loss"] + 2 * losses["lpips"]).item(), rel=1e-6)
    decoded, video = torch.rand(2, 3, 3, 16, 16), torch.rand(2, 3, 3, 16, 16)
    posterior = build().vae.encode(torch.zeros(1, 3, 2, 16, 16))
    found = with_lpips.loss(decoded, video, posterior, torch.ones(1))["lpips"]
    frames = [Lpips.from_file(world / "lpips.safetensors")(decoded[:, :, n], video[:, :, n]) for n in range(3)]
    assert found.item() == pytest.approx(torch.stack(frames).mean().item(), rel=1e-5)


def test_lpips_decreases_when_it_is_trained_on(world: Path, tmp_path: Path) -> None:
    options = {"lpips_weights": world / "lpips.safetensors", "perceptual_weight": 10.0, "lr": 1e-2, "steps": 12}
    seen = scalars_of(made(world, tmp_path / "run", stage="image-vae", batch=8, **options))
    assert seen[-1]["lpips"] < 0.8 * seen[0]["lpips"]


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


def test_discriminator_of_windows_sees_neighbouring_frames_and_that_of_images_does_not() -> None:
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


def test_a_run_from_before_a_setting_existed_goes_on(world: Path, tmp_path: Path) -> None:
    config = made(world, tmp_path / "run")
    train(config, lambda _: None, until=2)
    path = tmp_path / "run/config.json"
    settings = json.loads(path.read_text())
    for name in ("vae_trains", "lpips_weights", "adversarial_weight"):
        settings.pop(name)
    path.write_text(json.dumps(settings))
    with pytest.raises(TrainError, match=r"vae_trains temporal\+decoder → all"):
        train(dataclasses.replace(config, vae_trains="all"), lambda _: None)
    assert [scalars["steps_per_s"] > 0 for scalars in scalars_of(config)] == [True, True]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vae_trains": "encoder"}, "vae_trains is 'encoder'; choose one of temporal, decoder"),
        ({"adversarial_balance": "none"}, "adversarial_balance is 'none'"),
        ({"adversarial_weight": -1.0}, "adversarial_weight is -1.0; it must lie between 0 and 1000"),
        ({"perceptual_weight": float("nan")}, "perceptual_weight is nan"),
        ({"adversarial_start": -1}, "adversarial_start is -1; it must be at least 0"),
        ({"adversarial_weight": 0.5, "adversarial_start": 4}, "ends after 4 steps"),
        ({"stage": "mtd", "adversarial_weight": 0.5}, "stage mtd trains no autoencoder"),
        ({"stage": "image", "lpips_weights": Path("vgg.pth")}, "lpips_weights is vgg.pth, but stage image"),
        ({"lpips_weights": Path("nowhere.pth")}, "no LPIPS weights at nowhere.pth; give --lpips-weights a .pth or"),
    ],
)
def test_what_the_user_must_change_is_one_line(
    world: Path, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(NuwaError, match=message) as caught:
        train(made(world, tmp_path / "run", **changes), lambda _: None)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_script_takes_the_settings_and_answers_with_one_line(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [
        "vae",
        "--dataset",
        str(world / "ds"),
        "--output",
        str(tmp_path / "run"),
        "--init",
        str(world / "tiny"),
    ]
    arguments += ["--engine", "local", "--length", "4", "--vae-trains", "decoder", "--adversarial-weight", "0.5"]
    assert (
        cli.run(main, Train, [*arguments, "--lpips-weights", str(tmp_path / "vgg.pth"), "--dry-run"], whole_config) == 0
    )
    shown = json.loads(capsys.readouterr().out)
    assert (shown["vae_trains"], shown["adversarial_weight"]) == ("decoder", 0.5)
    assert cli.run(main, Train, [*arguments, "--lpips-weights", str(tmp_path / "vgg.pth")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "vgg.pth; give --lpips-weights a .pth or .safetensors file" in error


def test_frames_too_small_for_the_networks_of_the_loss_are_named_before_anything_is_written(
    world: Path, tmp_path: Path
) -> None:
    small = write_dataset(tmp_path / "ds", [12], size=8)
    config = made(world, tmp_path / "run", dataset=small, lpips_weights=world / "lpips.safetensors")
    with pytest.raises(NuwaError, match="images of 8x8 px are too small for LPIPS"):
        train(config, lambda _: None)
    assert not (tmp_path / "run").exists()
    assert scalars_of(dataclasses.replace(config, lpips_weights=None, adversarial_weight=0.5))[0]["discriminator"] > 0


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
    fit(resolve(made(world, tmp_path / "two", batch=1, workers=2, engine="ray", **options)))
    one, two = stored(tmp_path / "one"), stored(tmp_path / "two")
    moments = [name for name in one if name.startswith("optimizer/exp_avg/")]
    assert any("adversary." in name for name in moments)
    for name in moments:
        assert (one[name] - two[name]).norm() < 1e-3 * one[name].norm() + 1e-7, name


def test_temporal_weights_of_a_new_autoencoder_start_at_the_identity_and_learn(world: Path, tmp_path: Path) -> None:
    """vae_trains temporal from the image autoencoder: its frames, then frames that see their neighbours."""
    pipe = build()
    pipe.register_modules(vae=TemporalVAE.from_image_vae(pipe.vae.image_vae()))
    save_pipeline(pipe, tmp_path / "init")
    train(made(world, tmp_path / "run", init=tmp_path / "init", vae_trains="temporal", lr=1e-2), lambda _: None)
    video = torch.rand(1, 3, 4, 16, 16) * 2 - 1
    changed = video.clone()
    changed[:, :, 0] = 0
    for folder, mixes in ((tmp_path / "init", False), (tmp_path / "run/model", True)):
        vae = load_pipeline(folder).vae
        with torch.no_grad():
            moved = (vae.encode(video).mean - vae.encode(changed).mean)[:, :, 1:].abs().max()
        assert (moved > 0) == mixes
