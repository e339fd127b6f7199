"""The report page in a real browser: it asks for nothing, complains of nothing, follows the system's colours, plays."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from torch.utils.tensorboard import SummaryWriter

from nuwa.generate.video_files import write_video
from pipelines import cli, explore
from tests.browser import Browser, find_chromium
from tests.curation import small_dataset

PROMPTS = ["a red star jumps"] * 24 + ["a <blue> circle spins"] * 25


def make_run(folder: Path) -> Path:
    """A run folder with a config and a loss that falls."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"stage": "mtd", "init": "weights/vae/model"}))
    with SummaryWriter(str(folder / "logs")) as writer:
        for step in range(1, 50):
            writer.add_scalar("train/loss", 1 / step, step)
            writer.add_scalar("train/samples_per_s", 8.0, step)
    return folder


def make_film(path: Path) -> Path:
    """Two scenes, red then blue, with the record that pipelines.generate writes."""
    colours = [(220, 40, 40) if "red" in prompt else (40, 40, 220) for prompt in PROMPTS]
    write_video(path, (np.full((64, 64, 3), colour, np.uint8) for colour in colours), fps=8)
    record = {
        "num_frames": 49,
        "fps": 8.0,
        "depth": 2,
        "window_length": 8,
        "windows": [1, 7],
        "strides": [7, 1],
        "prompts": PROMPTS,
        "sampling": {"steps": 20, "guidance": 4.0, "seed": 0},
        "model": "runs/demo/mtd/model",
        "weights_sha256": "0123456789abcdef",
        "spans": [
            {"prompt": PROMPTS[0], "first": 0, "last": 23, "first_s": 0.0, "end_s": 3.0},
            {"prompt": PROMPTS[-1], "first": 24, "last": 48, "first_s": 3.0, "end_s": 6.125},
        ],
    }
    path.with_suffix(".json").write_text(json.dumps(record))
    return path


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("explore")
    dataset, run, film = small_dataset.build(folder), make_run(folder / "run"), make_film(folder / "film.mp4")
    words = ["--dataset", dataset, "--runs", run, "--video", film, "--output", folder / "report.html"]
    assert cli.run(explore.main, explore.Explore, [str(word) for word in words]) == 0
    return folder / "report.html"


def test_page_has_every_section(report: Path) -> None:
    text = report.read_text("utf-8")
    for anchor in ("film", "funnel", "scores", "thresholds", "duplicates", "files", "clips", "training"):
        assert f'<section id="{anchor}">' in text
    assert "data:video/mp4;base64," in text
    assert "49 steps" in text
    assert "went on from weights/vae/model" in text
    assert "<blue>" not in text
    assert sorted(path.name for path in report.parent.glob("_*")) == []


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--dataset", "nothing", "--output", "r.html"], "is no dataset"),
        (["--dataset", "DATASET", "--output", "r.html", "--runs", "nothing"], "config.json cannot be read"),
        (["--dataset", "DATASET", "--output", "r.html", "--video", "nothing.mp4"], "there is no video"),
        (["--dataset", "DATASET", "--output", "."], "is a folder"),
        (["--dataset", "DATASET", "--output", "story.mp4"], "does not end in .html"),
    ],
)
def test_bad_input_gets_one_line_and_status_2(
    report: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, words, line
) -> None:
    monkeypatch.chdir(tmp_path)
    dataset = str(report.parent / "dataset")
    assert cli.run(explore.main, explore.Explore, [dataset if word == "DATASET" else word for word in words]) == 2
    stderr = capsys.readouterr().err
    assert line in stderr
    assert stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    executable = find_chromium()
    if executable is None:
        pytest.skip("no Chromium on this machine: install chromium or google-chrome")
    if sys.platform == "win32":
        pytest.skip("the debugging pipe needs a POSIX shell")
    with Browser(executable, tmp_path / "profile") as opened:
        yield opened


@pytest.mark.browser
def test_page_in_a_browser(report: Path, browser: Browser, tmp_path: Path) -> None:
    browser.open(report.as_uri())
    seen = "[getComputedStyle(document.body).backgroundColor, document.body.scrollWidth]"
    light, width = browser.evaluate(seen)
    assert width <= 1280
    assert browser.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
    browser.screenshot(tmp_path / "light.png")
    browser.call("Emulation.setDeviceMetricsOverride", width=420, height=900, deviceScaleFactor=1, mobile=False)
    assert browser.evaluate("document.body.scrollWidth") <= 420
    browser.call("Emulation.clearDeviceMetricsOverride")
    browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    assert browser.evaluate(seen)[0] != light
    assert all(url == report.as_uri() or url.startswith("data:") for url in browser.requests)
    assert browser.complaints == []


@pytest.mark.browser
def test_film_seeks_and_names_its_prompt(report: Path, browser: Browser) -> None:
    browser.open(report.as_uri())
    jump = """new Promise(done => {
        const film = document.getElementById('player'), line = document.querySelector('.timeline');
        film.addEventListener('seeked', () => setTimeout(done, 200), {once: true});
        const box = line.getBoundingClientRect();
        line.dispatchEvent(new MouseEvent('click', {clientX: box.left + PLACE * box.width}));
    })"""
    for place, prompt in ((0.75, PROMPTS[-1]), (0.25, PROMPTS[0])):
        browser.evaluate(jump.replace("PLACE", str(place)))
        shown = "[document.getElementById('player').currentTime, document.getElementById('now').textContent]"
        time_s, caption = browser.evaluate(shown)
        assert abs(time_s - place * 49 / 8) < 0.2
        assert caption == prompt
    assert browser.complaints == []
