"""Latents made once: they are what training would encode, and training from them equals training from footage."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from nuwa.data.latents import LatentFolder
from nuwa.data.prompt_tokens import PromptFolder
from nuwa.data.runs import read_runs
from nuwa.diffusion.objective import Denoiser
from nuwa.generate.pipeline import NuwaXLPipeline
from nuwa.generate.pipeline_folder import load_pipeline
from nuwa.train.components import starting_pipeline
from nuwa.train.config import TrainConfig
from nuwa.train.encode_job import prepare, run
from nuwa.train.fingerprints import autoencoder_hash, prompt_encoder_hash
from nuwa.train.loop import STAGE_TYPES, train
from nuwa.train.mtd_stage import MtdStage
from nuwa.train.stages import Diffusion, ImageStage
from tests.nuwa.encoding import HALF, LENGTH, asked, encoded_world, ignore, made, without_footage
from tests.nuwa.image_model_folder import write_image_model
from tests.nuwa.tiny_dataset import write_dataset

CPU = torch.device("cpu")
NO_OTHER_MASKS = {"first_frame_frac": 0.0, "prediction_frac": 0.0, "infilling_frac": 0.0}
WITHOUT_FOOTAGE: list[tuple[str, dict[str, object]]] = [
    ("mtd", NO_OTHER_MASKS),
    ("mtd", {"condition": "latents"}),
    ("image", {}),
]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return encoded_world(tmp_path_factory.getbasetemp())


def losses_of(config: TrainConfig) -> dict[int, float]:
    found: dict[int, float] = {}
    train(config, lambda progress: found.update({progress.step: progress.scalars["loss"]}))
    return found


def stage_of(world: Path, **changes: object) -> MtdStage:
    return MtdStage(made(world, Path("unused"), **changes), load_pipeline(world / "tiny"), read_runs(world / "ds"), CPU)


@pytest.mark.parametrize("stage", ["mtd", "image"])
def test_training_from_latents_equals_training_from_footage(world: Path, tmp_path: Path, stage: str) -> None:
    """Also where some conditions are encoded from footage because they cannot be made before."""
    usual = losses_of(made(world, tmp_path / "usual", stage=stage))
    encoded = losses_of(made(world, tmp_path / "encoded", stage=stage, latents=world / "latents"))
    assert list(usual) == [1, 2]
    assert encoded == pytest.approx(usual, abs=1e-5)


def test_a_training_goes_over_to_latents_when_it_is_continued(world: Path, tmp_path: Path) -> None:
    usual = losses_of(made(world, tmp_path / "usual"))
    train(made(world, tmp_path / "moved"), ignore, until=1)
    moved = losses_of(made(world, tmp_path / "moved", latents=world / "latents"))
    assert moved == pytest.approx({2: usual[2]}, abs=1e-5)


@pytest.mark.parametrize(("stage", "changes"), WITHOUT_FOOTAGE)
def test_neither_footage_nor_autoencoder_is_needed(
    world: Path, tmp_path: Path, stage: str, changes: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    tables_only = without_footage(world, tmp_path)

    def loss(dataset: Path, latents: Path | None) -> float:
        config = made(world, tmp_path, stage=stage, dataset=dataset, latents=latents, **changes)
        made_stage = STAGE_TYPES[stage](config, load_pipeline(world / "tiny"), read_runs(dataset), CPU)
        samples = [made_stage.data[index] for index in (0, 8, 15, 20)]
        return made_stage.losses(samples, range(40, 44))["loss"].item()

    usual = loss(world / "ds", None)
    for kind in (MtdStage, ImageStage):
        monkeypatch.setattr(kind, "_encode", lambda *_: pytest.fail("the autoencoder was asked"))
    monkeypatch.setattr(NuwaXLPipeline, "encode_prompts", lambda *_: pytest.fail("the text encoder was asked"))
    assert loss(tables_only, world / "latents") == pytest.approx(usual, abs=1e-5)


def test_latents_are_what_training_would_encode(world: Path) -> None:
    """Every window at every stride, its condition with both ends known, and the one of which nothing is."""
    usual, encoded = stage_of(world), stage_of(world, latents=world / "latents")
    assert usual.data.counts == encoded.data.counts == (5 + 2, 11 + 8)
    ends, nothing = (True, False, False, True), (False,) * LENGTH
    for index in range(0, len(usual.data), 2):
        one, other = usual.data[index], encoded.data[index]
        assert len(other.frames) == 0
        whole = encoded._latents(other, None)
        assert torch.allclose(usual._latents(one, None), whole, atol=HALF)
        assert torch.allclose(usual._latents(one, nothing), encoded._latents(other, nothing), atol=HALF)
        if one.level > 0:
            assert torch.allclose(usual._latents(one, ends), encoded._latents(other, ends), atol=HALF)
            assert not torch.allclose(whole, encoded._latents(other, ends), atol=10 * HALF)


def test_mean_and_log_variance_are_those_of_scaled_latents(world: Path) -> None:
    stage = stage_of(world)
    folder, scale = LatentFolder(world / "latents", autoencoder_hash(stage.vae)), stage.vae.config.scaling_factor
    index = stage.data.counts[0] + 5  # frame 5 of the first run, at stride 1
    (source,) = {key[0] for key in folder._places if key[1:] == (1, "1111") and len(folder.firsts(*key)) == 11}
    with torch.no_grad():
        gaussian = stage.vae.encode(torch.from_numpy(stage.data.frames(index)).permute(3, 0, 1, 2)[None] / 127.5 - 1.0)
    expected = {"mean": gaussian.mean[0] * scale, "logvar": gaussian.logvar[0] + 2 * np.log(scale)}
    for moment, latents in expected.items():
        found = folder.read(source, 5, 1, "1111", moment)
        assert found is not None
        assert found.dtype == np.float16
        assert np.allclose(found, latents, atol=HALF, rtol=1e-3)
    assert folder.read(source, 11, 1, "1111") is None
    assert folder.read(source, 5, 2, "1111") is None


def test_tokens_are_those_of_the_text_encoder(world: Path) -> None:
    pipe = load_pipeline(world / "tiny")
    folder = PromptFolder(world / "latents", prompt_encoder_hash(pipe))
    prompts = {"", *(prompt for run in read_runs(world / "ds") for prompt in run.prompts)}
    assert len(prompts) == 4
    for prompt in prompts:
        tokens = folder.read(prompt)
        assert tokens is not None
        assert np.allclose(tokens, pipe.encode_prompts([prompt])[0], atol=1e-5)
    assert folder.read("a blue circle") is None


def test_prompts_that_are_not_there_the_text_encoder_makes(world: Path) -> None:
    """As a folder that was encoded for other captions, or by another text encoder, has none of them."""
    usual, encoded = stage_of(world), stage_of(world, latents=world / "latents")
    assert encoded.diffusion.prompts._stored is not None
    encoded.diffusion.prompts._stored._places.clear()
    ours, theirs = (stage.diffusion.tokens([stage.data[0]], range(1)) for stage in (encoded, usual))
    assert torch.allclose(ours, theirs, atol=1e-5)


def test_hashes_change_with_what_the_result_depends_on_and_nothing_else(world: Path) -> None:
    pipe = load_pipeline(world / "tiny")
    vae, prompts = autoencoder_hash(pipe.vae), prompt_encoder_hash(pipe)
    pipe.encode_prompts(["a red star"])  # a call leaves its padding in the tokenizer
    with torch.no_grad():
        next(pipe.vae.decoder.parameters()).add_(1.0)
        next(pipe.denoiser_global.parameters()).add_(1.0)
    assert (autoencoder_hash(pipe.vae), prompt_encoder_hash(pipe)) == (vae, prompts)
    pipe.vae.register_to_config(scaling_factor=0.5)
    assert autoencoder_hash(pipe.vae) != vae
    pipe.vae.register_to_config(scaling_factor=0.7)
    with torch.no_grad():
        next(iter(pipe.vae.encoder.parameters())).add_(1e-3)
        next(iter(pipe.text_encoder.parameters())).add_(1e-3)
    assert autoencoder_hash(pipe.vae) != vae
    assert prompt_encoder_hash(pipe) != prompts


def test_loader_processes_read_what_this_one_reads(world: Path) -> None:
    data = stage_of(world, latents=world / "latents").data
    here = [data[index] for index in (0, 9, 25)]
    loader = DataLoader(data, batch_sampler=[[0], [9, 25]], collate_fn=list, num_workers=2)
    there = [sample for batch in loader for sample in batch]
    sent = pickle.loads(pickle.dumps(data))  # as to a process that is not forked
    for one, other, index in zip(here, there, (0, 9, 25), strict=True):
        for copied in (other, sent[index]):
            assert one.latents is not None
            assert copied.latents is not None
            assert np.array_equal(one.latents.mean, copied.latents.mean)
            assert copied.prompts == one.prompts


@pytest.mark.parametrize("kind", ["mtd", "image"])
def test_an_image_model_encodes_what_a_training_from_it_reads(tmp_path: Path, kind: str) -> None:
    """A Stable Diffusion folder as --model, as it may be --init, whatever the seed of the training."""
    write_dataset(tmp_path / "ds", [14])
    write_image_model(tmp_path / "tiny")
    run(prepare(asked(tmp_path, tmp_path / "latents", stage=kind)), ignore)
    losses = {}
    for latents in (None, tmp_path / "latents"):
        config, runs = made(tmp_path, Path("unused"), stage=kind, latents=latents, seed=3), read_runs(tmp_path / "ds")
        stage = STAGE_TYPES[kind](config, starting_pipeline(config, runs[0]), runs, CPU)
        losses[latents] = stage.losses([stage.data[0], stage.data[7]], range(2))["loss"].item()
    assert losses[tmp_path / "latents"] == pytest.approx(losses[None], abs=1e-5)


@pytest.mark.parametrize("kind", ["mtd", "image"])
def test_frozen_encoders_keep_full_precision_where_networks_train_in_half(
    world: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, runs = made(world, Path("unused"), stage=kind), read_runs(world / "ds")
    seen: list[torch.Tensor] = []
    usual = Diffusion.loss

    def watched(self: Diffusion, net: Denoiser, z0: torch.Tensor, tokens: torch.Tensor, *rest: Any) -> torch.Tensor:
        seen.extend((z0, tokens))
        return usual(self, net, z0, tokens, *rest)

    monkeypatch.setattr(Diffusion, "loss", watched)
    for half in (False, True):
        stage = STAGE_TYPES[kind](config, load_pipeline(world / "tiny"), runs, CPU)
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            stage.losses([stage.data[index] for index in (0, 8)], range(2))
    full, mixed = seen[:2], seen[2:]
    assert len(mixed) == 2
    for one, other in zip(full, mixed, strict=True):
        assert other.dtype == torch.float32
        assert torch.equal(one, other)
