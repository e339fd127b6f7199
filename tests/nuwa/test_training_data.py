"""What a training makes of its data settings: shares of levels, captions by draw, fps and motion, clips in messages."""

import dataclasses
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from nuwa.data.runs import read_runs
from nuwa.data.windows import WindowSample
from nuwa.generate.pipeline_folder import load_pipeline, save_pipeline
from nuwa.train.captions import choose, sampled_prompts
from nuwa.train.config import TrainConfig, TrainError
from nuwa.train.config_checks import resolve
from nuwa.train.loop import train
from nuwa.train.mtd_stage import MtdStage
from nuwa.train.run_folder import check_output
from nuwa.train.stages import Losses
from nuwa.train.vae_stage import VaeStage
from tests.nuwa.small_training import small_training
from tests.nuwa.stack import build
from tests.nuwa.test_runs import change
from tests.nuwa.tiny_dataset import write_dataset

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`ds`, whose second clip has no caption_video and whose third has none of the three."""
    folder = tmp_path_factory.mktemp("world")
    write_dataset(folder / "ds", [24])
    change(
        folder / "ds",
        "clips",
        caption_coca=["a star", "a circle", None, "red"],
        caption_video=["a star jumps", "", None, "red jumps"],
        caption_llm=["a red star jumps", "a blue circle", None, "a"],
    )
    save_pipeline(build(), folder / "tiny")
    return folder


def made(world: Path, output: Path, **changes: object) -> TrainConfig:
    return small_training(world, output, **({"steps": 2, "warmup": 1, "log_every": 20} | changes))


def stage_of(world: Path, **changes: object) -> MtdStage:
    config = resolve(made(world, Path("unused"), **changes))
    return MtdStage(config, load_pipeline(world / "tiny"), read_runs(world / "ds"), CPU)


def test_captions_are_drawn_by_their_shares_and_missing_ones_leave_theirs() -> None:
    places = (np.arange(1000) + 0.5) / 1000
    for captions, shares in (
        (("a", "b", "c"), {"a": 500, "b": 250, "c": 250}),
        (("a", "", "c"), {"a": 667, "c": 333}),
        (("", "b", "c"), {"b": 500, "c": 500}),
        (("", "", "c"), {"c": 1000}),
        (("", "", ""), {"stored": 1000}),
    ):
        assert Counter(choose(captions, float(place), "stored") for place in places) == shares
    assert choose(("a", "b", ""), np.nextafter(1.0, 0.0), "stored") == "b"


def test_all_frames_of_a_clip_share_the_caption_of_a_draw(world: Path) -> None:
    sample = stage_of(world).data[0]  # frames 0 3 6 9: two of the first clip, two of the second
    assert sample.clip_ids == ("clip-0-0", "clip-0-0", "clip-0-1", "clip-0-1")
    drawn = [sampled_prompts(sample, seed=3, draw=draw) for draw in range(4000)]
    assert all(prompts[0] == prompts[1] and prompts[2] == prompts[3] for prompts in drawn)
    first, second = (Counter(prompts[place] for prompts in drawn) for place in (0, 2))
    for found, shares in (
        (first, {"a star": 0.5, "a star jumps": 0.25, "a red star jumps": 0.25}),
        (second, {"a circle": 2 / 3, "a blue circle": 1 / 3}),
    ):
        assert found.keys() == shares.keys()
        assert all(found[text] / 4000 == pytest.approx(share, abs=0.03) for text, share in shares.items())
    together = Counter((prompts[0], prompts[2]) for prompts in drawn)
    assert together["a star", "a circle"] / 4000 == pytest.approx(1 / 3, abs=0.03)  # clips are independent


def test_a_caption_depends_on_seed_and_draw_only(world: Path) -> None:
    stage = stage_of(world, captions="sampled", prompt_dropout=0.0)
    samples = [stage.data[0], stage.data[len(stage.data) - 1]]
    tokens = stage.diffusion.tokens(samples, range(7, 9))
    assert torch.equal(tokens[1:], stage.diffusion.tokens(samples[1:], range(8, 9)))
    assert {sampled_prompts(samples[0], 0, 7), sampled_prompts(samples[0], 1, 9)} <= {
        sampled_prompts(samples[0], 0, draw) for draw in range(50)
    }
    assert any(sampled_prompts(samples[0], 0, draw) != sampled_prompts(samples[0], 1, draw) for draw in range(20))


def test_without_captions_to_sample_the_stored_one_is_read(world: Path) -> None:
    sample = stage_of(world).data[12]
    stored = dict(zip(sample.clip_ids, sample.prompts, strict=True))
    drawn = dict(zip(sample.clip_ids, sampled_prompts(sample, 0, 0), strict=True))
    assert drawn["clip-0-2"] == stored["clip-0-2"] == "a red star in scene 2"


def test_stored_captions_are_the_default_and_the_tokens_of_old(world: Path) -> None:
    stage = stage_of(world, prompt_dropout=0.0)
    sample = stage.data[0]
    assert torch.equal(stage.diffusion.tokens([sample], range(1))[0], stage.diffusion.prompts.tokens(sample.prompts))


def test_rate_and_motion_of_a_window_reach_the_network_and_drop_out(world: Path) -> None:
    kept, hidden = (stage_of(world, condition_dropout=rate) for rate in (0.0, 1.0))
    samples = [kept.data[0], kept.data[3]]
    assert torch.allclose(
        kept._time_ids(samples, [0.0, 0.0], range(2))[:, :2],
        torch.tensor([[8.0, 0.15], [8.0, samples[1].motion_score]]),
    )
    assert hidden._time_ids(samples, [0.0, 0.0], range(2)).isnan().all()
    half = stage_of(world, condition_dropout=0.5)._time_ids(samples[:1] * 2000, [0.0] * 2000, range(2000)).isnan()
    assert half.float().mean(dim=0).tolist() == pytest.approx([0.5] * 3, abs=0.05)
    assert (half[:, 0] & half[:, 1]).float().mean() == pytest.approx(0.25, abs=0.05)  # each on its own


@pytest.mark.parametrize("stage", ["vae", "mtd"])
def test_levels_get_the_shares_asked_for(world: Path, stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    kind: type[MtdStage] | type[VaeStage] = MtdStage if stage == "mtd" else VaeStage

    def losses(self: object, samples: list[WindowSample], draws: range) -> Losses:
        seen.extend(sample.level for sample in samples)
        return {"loss": sum(weight.sum() for weight in self.module.parameters() if weight.requires_grad)}  # type: ignore[attr-defined]

    monkeypatch.setattr(kind, "losses", losses)
    train(made(world, world / f"run-{stage}", stage=stage, level_shares=(1.0, 3.0), batch=8))
    assert Counter(seen) == {0: 4, 1: 12}


def test_shares_of_levels_belong_to_a_run_and_it_goes_on(world: Path, tmp_path: Path) -> None:
    config = resolve(made(world, tmp_path / "run", level_shares=(1.0, 3.0)))
    train(config, lambda _: None, until=1)
    assert json.loads((tmp_path / "run/config.json").read_text())["level_shares"] == [1.0, 3.0]
    check_output(config)
    with pytest.raises(TrainError, match=r"level_shares \[1\.0, 3\.0\] → None.* --level-shares 1\.0 3\.0$"):
        check_output(dataclasses.replace(config, level_shares=None))
    train(config, lambda _: None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"level_shares": (1.0,)}, "level_shares is 1; give one number for each of the levels that are trained, 0, 1"),
        ({"level_shares": (1.0, 0.0)}, "level_shares is 1 0; each must be a number above 0"),
        ({"level_shares": (1.0, float("nan"))}, "level_shares is 1 nan; each must be a number above 0"),
        ({"level_shares": (1.0,), "levels": "global"}, "level_shares is 1, but one level only is trained"),
        (
            {"level_shares": (1.0, 1.0), "stage": "image", "length": None},
            "level_shares is .*, but stage image does nothing with it",
        ),
        ({"depth": 1, "levels": "local"}, "depth 1 has no local levels"),
        ({"captions": "sampled", "stage": "vae"}, "captions is sampled, but stage vae does nothing with it"),
        ({"captions": "best"}, "captions is 'best'; choose one of stored, sampled"),
        ({"text_encoder": Path("mine")}, "text_encoder is mine, but the pipeline of --init decides that"),
    ],
)
def test_data_settings_that_cannot_be_are_one_line(world: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(TrainError, match=message) as caught:
        resolve(made(world, Path("unused"), **changes))
    assert "\n" not in str(caught.value)


def test_a_step_that_is_not_finite_names_the_clips_of_its_batch(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[WindowSample] = []
    losses_of = MtdStage.losses

    def losses(self: MtdStage, samples: list[WindowSample], draws: range) -> Losses:
        seen[:] = samples
        return {name: value * float("nan") for name, value in losses_of(self, samples, draws).items()}

    train(made(world, tmp_path / "run", batch=3), lambda _: None, until=1)
    monkeypatch.setattr(MtdStage, "losses", losses)
    with pytest.raises(TrainError, match=r"^step 2 is not finite") as caught:
        train(made(world, tmp_path / "run", batch=3), lambda _: None)
    message = str(caught.value)
    assert "\n" not in message
    assert f"the last checkpoint, {tmp_path / 'run/checkpoints/step-000001'}, stays" in message
    for sample in seen:
        assert f"(clips {' '.join(dict.fromkeys(sample.clip_ids))})" in message
