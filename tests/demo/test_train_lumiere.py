"""The commands that train the demo's small space-time U-Net are ones that the scripts take."""

from pathlib import Path

import pytest

from curation.config import CurationConfig
from curation.config_json import from_json
from demo import train_lumiere
from nuwa.generate.pipeline_folder import load_pipeline, save_pipeline
from nuwa.hierarchy import NuwaError
from pipelines import cli, curate, train
from tests.nuwa import stack

PIPELINE = Path(__file__).parents[2] / "demo/weights/pipeline"


def test_every_command_can_be_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    commands: list[tuple[str, list[str]]] = []
    monkeypatch.setattr(train_lumiere, "must_run", lambda module, *words: commands.append((module, [*map(str, words)])))
    monkeypatch.setattr(train_lumiere, "ship", lambda model, output: commands.append(("ship", [str(model)])))
    with pytest.raises(NuwaError, match=r"run demo\.train_weights first"):
        train_lumiere.main(train_lumiere.TrainLumiere(work=tmp_path))
    (tmp_path / "dataset").mkdir()
    (tmp_path / "dataset/config.json").write_text("{}")
    train_lumiere.main(train_lumiere.TrainLumiere(work=tmp_path, pipeline=PIPELINE))
    assert [module for module, _ in commands] == ["pipelines.curate", *["pipelines.train"] * 3, "ship"]
    for module, words in commands[:4]:
        script, config = (curate.main, curate.Curate) if "curate" in module else (train.main, train.Train)
        assert cli.run(script, config, [*words, "--dry-run"]) == 0, capsys.readouterr().err
    inits = [words[words.index("--init") + 1] for module, words in commands if module == "pipelines.train"]
    folders = [words[words.index("--output") + 1] for module, words in commands if module == "pipelines.train"]
    assert inits == [str(tmp_path / "lumiere/start"), *[f"{folder}/model" for folder in folders[:2]]]
    assert commands[-1][1] == [f"{folders[2]}/model"]
    settings = Path(commands[0][1][commands[0][1].index("--profile") + 1])
    assert from_json(settings.read_text(), CurationConfig).runs.height == 64
    small, shipped = load_pipeline(tmp_path / "lumiere/start"), load_pipeline(PIPELINE)
    assert small.denoiser_global.num_parameters() < 0.3 * shipped.denoiser_global.num_parameters()
    assert all((a == b).all() for a, b in zip(small.vae.parameters(), shipped.vae.parameters(), strict=True))


def test_a_start_is_taken_up_for_the_pipeline_it_was_made_of_only(tmp_path: Path) -> None:
    pipe, start = stack.build(), tmp_path / "lumiere/start"
    save_pipeline(pipe, tmp_path / "one")
    train_lumiere.start(tmp_path / "one", start)
    made = {path: path.stat().st_mtime_ns for path in start.rglob("*")}
    save_pipeline(stack.build(seed=1), tmp_path / "other")
    train_lumiere.start(tmp_path / "one", start)
    with pytest.raises(
        NuwaError, match=f"begun from another pipeline than {tmp_path}/other; .* remove {start.parent} "
    ):
        train_lumiere.start(tmp_path / "other", start)
    pipe.scheduler.register_to_config(prediction_type="epsilon")
    save_pipeline(pipe, tmp_path / "one")
    with pytest.raises(NuwaError, match="begun from another pipeline"):
        train_lumiere.start(tmp_path / "one", start)
    assert made == {path: path.stat().st_mtime_ns for path in start.rglob("*")}
