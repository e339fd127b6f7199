"""The autoencoder stages: which weights train, what the loss is made of, and that the discriminator resumes."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL

from nuwa.data.runs import read_runs
from nuwa.data.windows import Order
from nuwa.generate.pipeline_folder import load_pipeline, save_pipeline
from nuwa.hierarchy import NuwaError
from nuwa.models.perceptual import Lpips
from nuwa.models.vae import TemporalVAE
from nuwa.train.autoencoder_loss import AutoencoderLoss
from nuwa.train.config import TrainConfig, TrainError, VaeTrains
from nuwa.train.config_checks import resolve
from nuwa.train.loop import Trainer, train
from nuwa.train.mtd_stage import MtdStage
from nuwa.train.vae_stage import choose_weights
from pipelines import cli
from pipelines.train import Train, main, whole_config
from tests.nuwa.stack import build
from tests.nuwa.tiny_dataset import write_dataset
from tests.nuwa.vae_training import CPU, made, scalars_of, stage_of, write_world


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_world(tmp_path_factory.mktemp("world"))


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
    plain_config = dataclasses.replace(config, lpips_weights=None, perceptual_weight=1.0)
    with_lpips, without = stage_of(config), stage_of(plain_config)
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


@pytest.mark.parametrize("trains", ["temporal", "decoder", "temporal+decoder", "all"])
def test_mtd_sees_latents_of_unit_variance_after_the_encoder_changed(
    world: Path, tmp_path: Path, trains: VaeTrains
) -> None:
    pipe = load_pipeline(world / "tiny")
    pipe.vae.register_to_config(scaling_factor=7.0)
    save_pipeline(pipe, tmp_path / "init")
    train(made(world, tmp_path / "run", init=tmp_path / "init", vae_trains=trains, lr=1e-2), lambda _: None)
    config = resolve(made(world, tmp_path / "mtd", stage="mtd", init=tmp_path / "run/model"))
    after = load_pipeline(tmp_path / "run/model")
    if trains == "decoder":
        assert after.vae.config.scaling_factor == 7.0
        return
    stage = MtdStage(config, after, read_runs(world / "ds"), CPU)
    order = Order(counts=stage.data.counts, pattern=stage.pattern, batch=40)
    latents = torch.stack([stage._latents(stage.data[index], known=None) for index in order.indices(0)])
    assert latents.std().item() == pytest.approx(1, abs=0.05)


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
        ({"stage": "mtd", "adversarial_weight": 0.5}, "stage mtd does nothing with it; leave it away, or choose image"),
        ({"adversarial_start": 2}, "adversarial_start is 2, but there is no adversarial term; give --adversarial-w"),
        ({"adversarial_balance": "fixed"}, "adversarial_balance is fixed, but there is no adversarial term"),
        ({"perceptual_weight": 2.0}, "perceptual_weight is 2.0, but there is no perceptual term; give --lpips-weights"),
        ({"min_snr_gamma": 5.0}, "min_snr_gamma is 5.0, but stage vae does nothing with it"),
        ({"condition_noise": 0.3}, "condition_noise is 0.3, but stage vae does nothing with it; .* choose mtd"),
        ({"stage": "image-vae", "vae_trains": "all"}, "vae_trains is all, but stage image-vae does nothing with it"),
        ({"injection": "up_only"}, "injection is up_only, but the pipeline of --init decides that"),
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
