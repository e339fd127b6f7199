"""Evidence by training, on a tiny dataset: arms differ in what they are meant to, and a killed benchmark goes on."""

import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import arms, autoencoder_init, depth_and_length, injection
from benchmarks.autoencoder_init import MeasureInit
from benchmarks.depth_and_length import MeasureDepth
from benchmarks.depth_closed_form import closed_form, closed_form_panel, gaussian_verdicts, windows_of
from benchmarks.injection import MeasureInjection
from nuwa.generate.pipeline_folder import load_pipeline, save_pipeline
from nuwa.hierarchy import NuwaError
from nuwa.models.vae import TemporalVAE
from tests.nuwa.stack import build
from tests.nuwa.tiny_dataset import write_dataset


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Options of every benchmark: a dataset and a pipeline."""
    folder = tmp_path_factory.mktemp("evidence")
    save_pipeline(build(), folder / "pipeline")
    return {"dataset": write_dataset(folder / "dataset", [40, 30]), "init": folder / "pipeline"}


def time_layers(vae: TemporalVAE) -> torch.Tensor:
    return torch.cat([weight.detach().flatten() for weight in vae.temporal_parameters()])


def no_training(*_: Any) -> Path:
    raise AssertionError("an arm was trained again")


def test_autoencoders_differ_in_their_temporal_layers_only_and_a_killed_one_goes_on(
    given: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small, results = {"steps": 2, "marks": 1, "episodes": 2}, tmp_path / "RESULTS.md"
    config = MeasureInit(**given, **small, work=tmp_path / "work", results=results)
    train_to, trained = arms.train_to, []

    def killed_at_the_second(*words: Any) -> Path:
        trained.append(words[0].output.parent.name)
        if len(trained) == 2:
            raise KeyboardInterrupt
        return train_to(*words)

    monkeypatch.setattr(arms, "train_to", killed_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        autoencoder_init.main(config)
    autoencoder_init.main(config)
    assert trained == ["none", "random", "random", "identity"], "what was done is not done again"
    check_arms(tmp_path / "work", given["init"])
    check_section(results, capsys.readouterr().out, "autoencoder-init")


def check_section(results: Path, printed: str, name: str) -> None:
    """What is printed stands in the file, with the order's verdict and a picture that can be read."""
    text = results.read_text("utf-8")
    assert printed.strip() in text
    assert f"<!-- {name} -->" in text
    assert "the paper's order" in text
    assert ElementTree.parse(results.parent / "figures" / f"{name}.svg").getroot().tag.endswith("svg")


def check_arms(work: Path, init: Path) -> None:
    """Starts share the image autoencoder; temporal layers are, and stay, what the name of the arm says."""
    started, ended = (
        {arm: load_pipeline(work / arm / when).vae for arm in autoencoder_init.ARMS}
        for when in ("start", "training/model")
    )
    image = load_pipeline(init).vae.image_vae()
    for vae in started.values():
        assert all(torch.equal(*pair) for pair in zip(vae.image_vae().parameters(), image.parameters(), strict=True))
    assert torch.equal(time_layers(started["none"]), time_layers(ended["none"])), "it has no temporal layers"
    assert torch.equal(time_layers(started["none"]), time_layers(started["identity"]))
    assert (time_layers(started["random"]) - time_layers(started["identity"])).abs().max() > 0.1
    for arm in ("identity", "random"):
        assert not torch.equal(time_layers(started[arm]), time_layers(ended[arm]))


def test_injections_start_from_the_same_image_weights(given: dict[str, Path], tmp_path: Path) -> None:
    config = MeasureInjection(**given, work=tmp_path)
    image = load_pipeline(given["init"]).denoiser_global.image_unet().state_dict()
    for arm in injection.ARMS:
        denoiser = load_pipeline(injection.start(config, arm)).denoiser_global
        assert denoiser.config.injection == arm
        state = denoiser.state_dict()
        assert all(torch.equal(state[name], weight) for name, weight in image.items())
        assert injection.training_of(config, arm).init == tmp_path / arm / "start"


@pytest.mark.slow  # trains three denoisers of windows
def test_injections_are_compared(
    given: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small, results = {"steps": 2, "marks": 1, "episodes": 2, "sampler_steps": 2}, tmp_path / "RESULTS.md"
    config = MeasureInjection(**given, **small, work=tmp_path / "work", results=results)
    injection.main(config)
    first = capsys.readouterr().out
    assert "the paper's order symmetric > up_only > single_scale" in first
    check_section(results, first, "injection")
    monkeypatch.setattr(arms, "train_to", no_training)
    injection.main(config)
    assert capsys.readouterr().out == first


@pytest.mark.slow  # trains two denoisers of windows
def test_depths_see_as_many_frames_and_a_finished_one_is_read_back(
    given: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(depth_and_length, "GAUSSIAN", ((5, 1), (5, 2)))
    monkeypatch.setattr(depth_and_length, "GAUSSIAN_FRAMES", (5, 17))
    small, results = {"steps": 2, "stories": 2, "sampler_steps": 2, "batch_frames": 15}, tmp_path / "RESULTS.md"
    config = MeasureDepth(**given, **small, work=tmp_path / "work", lengths=(5, 3), frames=17, results=results)
    assert [depth_and_length.training_of(config, length).batch for length in config.lengths] == [3, 5]
    assert [depth_and_length.training_of(config, length).depth for length in config.lengths] == [2, 4]
    depth_and_length.main(config)
    first = capsys.readouterr().out
    assert "toy FVD" in first
    check_section(results, first, "depth-and-length")
    monkeypatch.setattr(arms, "train_to", no_training)
    depth_and_length.main(config)
    assert capsys.readouterr().out == first


def test_closed_form_knows_which_depth_reaches() -> None:
    found = closed_form([(5, 1), (5, 2), (5, 3)], [5, 20])
    assert set(found) == {(5, 1, 5), (5, 1, 20), (5, 2, 5), (5, 3, 5), (5, 3, 20)}
    assert found[5, 1, 5] == pytest.approx(0.0, abs=1e-10)
    assert found[5, 3, 20] < found[5, 1, 20]
    assert windows_of(16, 2, 226) == (2, 16)
    assert windows_of(16, 1, 226) == (15, 15)


def test_closed_form_is_drawn_a_line_per_depth() -> None:
    found = {(16, 2, 226): 0.1, (8, 3, 226): 0.05, (6, 3, 226): 0.2, (16, 1, 226): 0.3, (16, 1, 16): 0.4}
    lines = {line.name: (line.x, line.y) for line in closed_form_panel(found, 226).lines}
    assert lines == {
        "autoregression, o = 1": ([16], [0.3]),
        "depth 2": ([16], [0.1]),
        "depth 3": ([6, 8], [0.2, 0.05]),
    }


def test_closed_form_is_set_beside_what_the_paper_found() -> None:
    found = {(16, 2, 226): 0.1, (16, 1, 226): 0.3, (16, 3, 226): 0.1, (8, 3, 226): 0.05}
    lines = gaussian_verdicts(found)
    assert [word in line for word, line in zip(("nearer", "alike", "**farther**"), lines, strict=True)] == [True] * 3


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        (MeasureInit, {"marks": 9, "steps": 3}),
        (MeasureInit, {"episodes": 1}),
        (MeasureInjection, {"batch": 0}),
        (MeasureInjection, {"episodes": 1}),
        (MeasureDepth, {"stories": 1}),
        (MeasureDepth, {"lengths": (16, 2)}),
        (MeasureDepth, {"frames": 16}),
    ],
)
def test_settings_that_cannot_be_are_refused(kind: type[Any], wrong: dict[str, Any]) -> None:
    with pytest.raises(NuwaError, match="give "):
        kind(**wrong)
