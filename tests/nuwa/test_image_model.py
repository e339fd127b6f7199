"""Training starts from a folder with Stable Diffusion's layout: the pipeline inflated from it is the image model."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from einops import rearrange
from safetensors.torch import load_file, save_file

from nuwa.data.runs import Run, read_runs
from nuwa.generate.pipeline import NuwaXLPipeline
from nuwa.generate.pipeline_folder import load_pipeline, save_pipeline
from nuwa.hierarchy import NuwaError
from nuwa.models.clip_text import prompt_encoder_from_clip
from nuwa.train.components import starting_pipeline
from nuwa.train.config import TrainConfig, TrainError
from nuwa.train.config_checks import resolve
from nuwa.train.loop import train
from tests.nuwa.image_model_folder import text_model, write_image_model
from tests.nuwa.small_training import small_training
from tests.nuwa.tiny_dataset import write_dataset

PROMPTS = ["a red star", "", "jumps over a very long fence"]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    write_dataset(folder / "ds", [24, 20])
    write_image_model(folder / "sd")
    return folder


@pytest.fixture(scope="module")
def image_model(world: Path) -> StableDiffusionPipeline:
    return StableDiffusionPipeline.from_pretrained(world / "sd", safety_checker=None, local_files_only=True)


@pytest.fixture(scope="module")
def inflated(world: Path) -> NuwaXLPipeline:
    return starting_pipeline(resolve(made(world, Path("unused"))), the_run(world))


def the_run(world: Path) -> Run:
    return read_runs(world / "ds")[0]


def made(world: Path, output: Path, **changes: object) -> TrainConfig:
    few = {"init": world / "sd", "steps": 1, "warmup": 1, "log_every": 20}
    return small_training(world, output, **(few | changes))


@torch.no_grad()
def test_prompts_are_those_of_the_image_model(image_model: StableDiffusionPipeline, inflated: NuwaXLPipeline) -> None:
    tokens = inflated.encode_prompts(PROMPTS)
    expected = torch.cat([image_model.encode_prompt(prompt, "cpu", 1, False)[0] for prompt in PROMPTS])
    assert tokens.shape == (3, 8, 8)
    assert torch.allclose(tokens, expected, atol=1e-5)


@pytest.mark.parametrize("hidden_act", ["quick_gelu", "gelu"])
@torch.no_grad()
def test_a_clip_text_model_keeps_its_tokens(hidden_act: str) -> None:
    clip = text_model(words=20, hidden_act=hidden_act)
    ids = torch.randint(0, 20, (4, 8))
    state = {f"text_model.{name}": weight for name, weight in clip.state_dict().items()}  # as older versions name it
    state["text_model.embeddings.position_ids"] = torch.arange(8)[None]
    for weights in (clip.state_dict(), state):
        encoder = prompt_encoder_from_clip(clip.config, weights)
        assert torch.allclose(encoder(ids), clip(ids).last_hidden_state, atol=1e-5)
        assert not any(weight.requires_grad for weight in encoder.parameters())


@torch.no_grad()
def test_networks_equal_those_of_the_image_model_frame_by_frame(
    image_model: StableDiffusionPipeline, inflated: NuwaXLPipeline
) -> None:
    latents, pixels = torch.randn(2, 4, 4, 8, 8), torch.rand(1, 3, 4, 16, 16) * 2 - 1
    prompts, steps = torch.randn(2, 4, 8, 8), torch.tensor([100, 900])
    frames = rearrange(latents, "b c t h w -> (b t) c h w")
    image = image_model.unet(frames, steps.repeat_interleave(4), rearrange(prompts, "b t n d -> (b t) n d")).sample
    video = inflated.denoiser_global(latents, steps, prompts, latents, torch.ones_like(latents[:, :1]))
    assert torch.allclose(rearrange(video, "b c t h w -> (b t) c h w"), image, atol=1e-5)
    expected = image_model.vae.encode(rearrange(pixels, "1 c t h w -> t c h w")).latent_dist.mode()
    assert torch.allclose(rearrange(inflated.vae.encode(pixels).mode(), "1 c t h w -> t c h w"), expected, atol=1e-5)


def test_noise_schedule_and_sizes_are_kept(image_model: StableDiffusionPipeline, inflated: NuwaXLPipeline) -> None:
    assert torch.equal(inflated.scheduler.alphas_cumprod, image_model.scheduler.alphas_cumprod)
    assert inflated.scheduler.config.prediction_type == "epsilon"
    assert inflated.vae.config.scaling_factor == 0.18215
    config = inflated.config
    assert (config.window_length, config.height, config.width, config.train_fps) == (4, 16, 16, 8.0)


@pytest.mark.parametrize("stage", ["image-vae", "image", "vae", "mtd"])
def test_every_stage_starts_from_it_and_leaves_a_whole_pipeline(world: Path, tmp_path: Path, stage: str) -> None:
    train(made(world, tmp_path / "run", stage=stage), lambda _: None)
    pipe = load_pipeline(tmp_path / "run/model")
    assert pipe.config.window_length == 4
    assert pipe.encode_prompts(PROMPTS).shape == (3, 8, 8)


def test_what_is_new_is_chosen_and_the_rest_is_refused(world: Path) -> None:
    config = resolve(made(world, Path("unused"), injection="up_only"))
    assert starting_pipeline(config, the_run(world)).denoiser_global.config.injection == "up_only"
    for setting in ({"preset": "base"}, {"prediction_type": "epsilon"}, {"text_encoder": Path("mine")}):
        with pytest.raises(TrainError, match="but the pipeline of --init decides that"):
            resolve(made(world, Path("unused"), **setting))


def test_injection_stays_that_of_a_pipeline_which_was_trained(world: Path, tmp_path: Path, inflated: object) -> None:
    save_pipeline(inflated, tmp_path / "ours")  # type: ignore[arg-type]
    with pytest.raises(TrainError, match="injection is up_only, but the pipeline of --init decides that"):
        resolve(made(world, Path("unused"), init=tmp_path / "ours", injection="up_only"))


def test_half_precision_files_are_read_where_there_are_no_others(world: Path, tmp_path: Path) -> None:
    folder = copied(world, tmp_path)
    for path in sorted(folder.rglob("*.safetensors")):
        half = {name: weight.half() for name, weight in load_file(path).items()}
        save_file(half, path.with_suffix(".fp16.safetensors"), metadata={"format": "pt"})
        path.unlink()
    pipe = starting_pipeline(resolve(made(world, Path("unused"), init=folder)), the_run(world))
    assert {
        weight.dtype for part in (pipe.vae, pipe.denoiser_global, pipe.text_encoder) for weight in part.parameters()
    } == {torch.float32}


def copied(world: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(world / "sd", tmp_path / "sd"))


def configured(part: str, **changes: object) -> Callable[[Path], None]:
    """Change a configuration of the folder."""

    def change(folder: Path) -> None:
        path = folder / part
        entries = json.loads(path.read_text()) | changes
        path.write_text(json.dumps({name: entry for name, entry in entries.items() if entry is not None}))

    return change


def without(name: str) -> Callable[[Path], None]:
    """Take a file or folder away."""

    def change(folder: Path) -> None:
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return change


def lacking(part: str, weight: str) -> Callable[[Path], None]:
    """Take one weight out of a file."""

    def change(folder: Path) -> None:
        save_file({k: v for k, v in load_file(folder / part).items() if k != weight}, folder / part, {"format": "pt"})

    return change


def cut(name: str) -> Callable[[Path], None]:
    """End a file too early."""

    def change(folder: Path) -> None:
        (folder / name).write_bytes((folder / name).read_bytes()[:-50])

    return change


UNET, TEXT = "unet/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: write_image_model(folder, text_width=12), "prompts of width 8, but text_encoder makes 12"),
        (without("vae"), r"vae/config\.json is missing; an image model to start from has the folders unet, vae,"),
        (without("scheduler"), r"scheduler/scheduler_config\.json is missing"),
        (without("tokenizer"), r"tokenizer/tokenizer_config\.json is missing"),
        (without(UNET), "unet has no weights as safetensors"),
        (without(TEXT), "text_encoder has no weights as safetensors"),
        (cut(UNET), "unet cannot be loaded"),
        (cut(TEXT), "text_encoder cannot be loaded"),
        (lacking(UNET, "conv_in.bias"), r"unet (lacks 1 weights, the first is conv_in\.bias|cannot be loaded)"),
        (lacking(TEXT, "final_layer_norm.bias"), "text_encoder: weights lack 'final_layer_norm.bias'"),
        (
            configured("unet/config.json", block_out_channels=[8, 32]),
            r"unet cannot be loaded .*size mismatch .* more\)",
        ),
        (configured("unet/config.json", center_input_sample=True), "a U-Net with center_input_sample=True cannot"),
        (
            configured("text_encoder/config.json", intermediate_size=24),
            "text_encoder: weights and configuration disagree",
        ),
        (
            configured("text_encoder/config.json", num_hidden_layers=1),
            "text_encoder: weights and configuration disagree",
        ),
        (configured("text_encoder/config.json", hidden_act="relu"), "hidden_act is 'relu'"),
        (configured("text_encoder/config.json", model_type="t5"), "text_encoder holds a t5, not a clip_text_model"),
        (configured("scheduler/scheduler_config.json", beta_schedule=None), "scheduler says nothing of betas"),
    ],
)
def test_what_is_no_image_model_is_one_line(
    world: Path, tmp_path: Path, change: Callable[[Path], None], message: str
) -> None:
    folder = copied(world, tmp_path)
    change(folder)
    with pytest.raises(NuwaError, match=message) as caught:
        train(made(world, tmp_path / "run", init=folder))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500
    assert not (tmp_path / "run").exists()


def test_runs_that_do_not_fit_its_networks_are_one_line(world: Path, tmp_path: Path) -> None:
    write_dataset(tmp_path / "ds", [24], size=18)
    with pytest.raises(TrainError, match=r"runs of 18x18 px do not fit .*sd: both sides must be multiples of 4"):
        train(made(world, tmp_path / "run", dataset=tmp_path / "ds"))


def test_a_pipeline_whose_weights_do_not_fit_names_the_first_of_them(
    world: Path, tmp_path: Path, inflated: NuwaXLPipeline
) -> None:
    save_pipeline(inflated, tmp_path / "ours")
    configured("denoiser_global/config.json", condition_channels=16)(tmp_path / "ours")
    with pytest.raises(NuwaError, match=r"MaskTemporalUNet: size mismatch for .* and \d+ more\)") as caught:
        load_pipeline(tmp_path / "ours")
    assert str(caught.value).count("size mismatch") == 1
