"""What a step costs the device and how it is compiled: counted FLOPs, share of the peak, torch.compile."""

import dataclasses
import math
from pathlib import Path

import pytest
import torch
import torch._inductor.config as inductor_config
from diffusers.utils import SAFETENSORS_WEIGHTS_NAME as WEIGHTS
from safetensors.torch import load_file
from torch import nn
from torch._dynamo.exc import BackendCompilerFailed
from torch._inductor.exc import InvalidCxxCompiler
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from nuwa.generate.pipeline_folder import load_pipeline, save_pipeline
from nuwa.train import loop, utilisation
from nuwa.train.compiled import check_compiler, compile_parts
from nuwa.train.config import TrainConfig, TrainError
from nuwa.train.loop import train
from nuwa.train.progress import Progress
from nuwa.train.utilisation import StepFlops, Utilisation, peak_flop_s
from tests.nuwa.small_training import small_training
from tests.nuwa.stack import build
from tests.nuwa.tiny_dataset import write_dataset

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`ds`, a dataset, and `tiny`, a random pipeline of windows of 4 frames."""
    folder = tmp_path_factory.mktemp("world")
    write_dataset(folder / "ds", [24])
    pipe = build()
    pipe.register_to_config(window_length=4)
    save_pipeline(pipe, folder / "tiny")
    return folder


def made(world: Path, output: Path, compiled: bool = False, stage: str = "mtd") -> TrainConfig:
    changes = {"stage": stage, "steps": 2, "warmup": 1, "compile": compiled}
    return small_training(world, output, **changes)


def trained(config: TrainConfig) -> list[Progress]:
    seen: list[Progress] = []
    train(config, seen.append)
    return seen


def weights_of(output: Path, step: int = 2) -> dict[str, torch.Tensor]:
    return load_file(output / f"checkpoints/step-00000{step}/weights.safetensors")


def flops_of(network: nn.Module, given: torch.Tensor) -> int:
    with StepFlops() as counter:
        network(given).sum().backward()
    return counter.total


def test_a_matrix_costs_twice_its_multiplications_three_times_over() -> None:
    """Forward, gradient of the weights, and for all but the first layer gradient of the input (PaLM, App. B)."""
    network = nn.Sequential(nn.Linear(8, 16, bias=False), nn.Linear(16, 4, bias=False))
    first, second = 2 * 5 * 8 * 16, 2 * 5 * 16 * 4
    assert flops_of(network, torch.randn(5, 8)) == 2 * first + 3 * second


def test_a_whole_network_counts_as_torch_counts_it() -> None:
    network = build().denoiser_global
    latents, prompts = torch.randn(1, 4, 4, 8, 8), torch.randn(1, 8, 8)
    with FlopCounterMode(display=False) as theirs:
        network(latents, torch.tensor([5]), prompts).sum().backward()
    with StepFlops() as ours:
        network(latents, torch.tensor([5]), prompts).sum().backward()
    assert ours.total == theirs.get_total_flops() > 0


def test_frozen_networks_and_what_is_computed_again_do_not_count() -> None:
    frozen, learns = nn.Linear(8, 8, bias=False), nn.Sequential(nn.Linear(8, 8), nn.SiLU(), nn.Linear(8, 8))
    plain = flops_of(learns, torch.randn(5, 8))

    class Both(nn.Module):
        def forward(self, given: torch.Tensor) -> torch.Tensor:
            with torch.no_grad():
                hidden = frozen(given)
            made: torch.Tensor = checkpoint(learns, hidden, use_reentrant=False)
            return made

    assert flops_of(Both(), torch.randn(5, 8)) == plain


def test_the_peak_is_that_of_the_card(monkeypatch: pytest.MonkeyPatch) -> None:
    cards = {
        "NVIDIA A100-SXM4-80GB": 312e12,
        "NVIDIA A10": 125e12,
        "NVIDIA A10G": 70e12,
        "NVIDIA H100 80GB HBM3": 989e12,
        "NVIDIA H100 PCIe": 756e12,
        "NVIDIA L40S": 362e12,
        "Tesla T4": 65e12,
        "NVIDIA RTX A4000": None,
    }
    for name, peak in cards.items():
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda _, name=name: name)
        assert peak_flop_s(torch.device("cuda")) == peak, name
    assert peak_flop_s(CPU) is None


def test_a_training_tells_its_share_of_the_peak_and_counting_changes_no_bit(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    silent = trained(made(world, tmp_path / "plain"))
    monkeypatch.setattr(utilisation, "peak_flop_s", lambda device: 1e9)
    counted: list[Utilisation] = []
    monkeypatch.setattr(loop, "Utilisation", lambda device: counted.append(Utilisation(device)) or counted[-1])
    told = trained(made(world, tmp_path / "counted"))
    assert "mfu" not in silent[-1].scalars
    (use,) = counted
    for each in told:
        assert each.scalars["mfu"] == pytest.approx(use.flops * each.scalars["steps_per_s"] / 1e9)
    before, after = weights_of(tmp_path / "plain"), weights_of(tmp_path / "counted")
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_what_cannot_be_compiled_is_one_line_before_anything_is_written(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_: object) -> None:
        raise BackendCompilerFailed(fails, InvalidCxxCompiler(), None)

    monkeypatch.setattr(torch, "compile", lambda function: fails)
    with pytest.raises(
        TrainError, match=r"^compile: .* for cpu here \(.*No working C\+\+ compiler.*--compile away$"
    ) as caught:
        trained(made(world, tmp_path / "run", compiled=True))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_without_a_compiler_torch_fails_in_that_way() -> None:
    torch.compiler.reset()
    without = inductor_config.patch({"cpp.cxx": ("no-such-compiler",)})
    with without, pytest.raises(TrainError, match=r"No working C\+\+ compiler"):
        check_compiler(CPU)
    torch.compiler.reset()


def test_compiled_parts_keep_their_names(world: Path) -> None:
    pipe = load_pipeline(world / "tiny")
    for module in (pipe.denoiser_global, pipe.vae, pipe.vae.image_vae()):
        names = set(module.state_dict())
        compile_parts(module)
        assert set(module.state_dict()) == names
    assert pipe.denoiser_global._compiled_call_impl is not None
    assert pipe.vae.encoder._compiled_call_impl is not None
    assert pipe.vae.decoder._compiled_call_impl is not None


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["mtd", "vae"])
def test_compiled_code_trains_as_written_code_does(world: Path, tmp_path: Path, stage: str) -> None:
    """Slow: a C++ compiler runs for every kernel.

    Weights that moved by some 4e-4 were measured to differ by 2e-6 at most, all together by a 1e-4th of their way.
    """
    check_compiler(CPU)
    configs = [
        dataclasses.replace(made(world, tmp_path / name, compiled, stage), steps=4, lr=1e-4)
        for name, compiled in (("written", False), ("compiled", True))
    ]
    written, compiled = map(trained, configs)
    for one, other in zip(written, compiled, strict=True):
        assert other.scalars["loss"] == pytest.approx(one.scalars["loss"], rel=1e-4)
    part = {"mtd": "denoiser_global", "vae": "vae"}[stage]
    begun = load_file(world / "tiny" / part / WEIGHTS)
    before, after = (weights_of(config.output, 4) for config in configs)
    assert before.keys() == after.keys() <= begun.keys()
    for name, weight in before.items():
        torch.testing.assert_close(
            after[name], weight, atol=1e-5, rtol=0, msg=lambda text, name=name: f"{name}: {text}"
        )
    learned = math.hypot(*(float((weight - begun[name]).norm()) for name, weight in before.items()))
    assert math.hypot(*(float((weight - after[name]).norm()) for name, weight in before.items())) < 1e-3 * learned
    models = [load_file(config.output / "model" / part / WEIGHTS) for config in configs]
    assert models[0].keys() == models[1].keys() == begun.keys()
    load_pipeline(tmp_path / "compiled/model")
