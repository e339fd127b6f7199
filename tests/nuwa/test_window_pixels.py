"""Pixels of windows through the autoencoder: whole frames bitwise as ever, tiles for frames of any size."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from demo import world
from nuwa.generate.executors import LocalExecutor
from nuwa.generate.given_frames import GivenClip, encode_clips
from nuwa.generate.long_video import frame_plan, generate_frames
from nuwa.generate.pipeline import NuwaXLPipeline
from nuwa.generate.pipeline_folder import load_pipeline
from nuwa.generate.window_pixels import decode_window, encode_window
from nuwa.generate.windows import FixedFrame, Sampling, WindowSampler, WindowTask, conditioning
from nuwa.hierarchy import NuwaError, Window
from tests.generated import command, run, save_model
from tests.nuwa import stack

DEMO = Path(__file__).parents[2] / "demo" / "weights" / "pipeline"
TILES = 9
"""Tiles of 4 latent pixels that cover 8 of them, sharing one: at 0, 3 and 4, in both directions."""


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Networks this small only lose by sharing their work among threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def pipe() -> NuwaXLPipeline:
    return stack.build()


@contextmanager
def passing(pipe: NuwaXLPipeline) -> Iterator[dict[str, list[tuple[int, ...]]]]:
    """Shapes ((b t) c h w) of what enters encoder and decoder."""
    shapes: dict[str, list[tuple[int, ...]]] = {"encoder": [], "decoder": []}
    handles = [
        getattr(pipe.vae, name).register_forward_pre_hook(
            lambda _, inputs, name=name: shapes[name].append(tuple(inputs[0].shape))
        )
        for name in shapes
    ]
    yield shapes
    for handle in handles:
        handle.remove()


def picture(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.uint8)


def video_of(pipe: NuwaXLPipeline, tile_px: int | None) -> np.ndarray:
    """17 frames, one global and four local windows, of which a picture is given: all of generation, (n H W 3)."""
    given = encode_clips(pipe, [GivenClip(6, (picture(0),), Path("a.png"))], tile_px)
    plan = frame_plan(["a red star"] * 17, stack.LENGTH, given=given)
    sampler = WindowSampler(pipe, Sampling(steps=2, batch=3, tile_px=tile_px))
    return np.stack(list(generate_frames(plan, LocalExecutor(sampler))))


def task(index: int) -> WindowTask:
    frame = FixedFrame(torch.full((4, 8, 8), 0.1 * index), torch.full((3, 16, 16), 0.3 - index))
    return WindowTask(Window(1, index, 4 * index, 1), ("a red star",) * 5, {0: frame})


def test_no_piece_larger_than_a_tile_passes_the_autoencoder(pipe: NuwaXLPipeline) -> None:
    with passing(pipe) as shapes:
        video = video_of(pipe, 8)
    assert video.shape == (17, 16, 16, 3)
    assert set(shapes["encoder"]) == {(5, 3, 8, 8)}
    assert set(shapes["decoder"]) == {(5, 4, 4, 4)}
    assert len(shapes["encoder"]) == TILES * (1 + 1 + 4)  # the picture, the global window, four local ones
    assert not np.array_equal(video, video_of(pipe, None))


def test_windows_of_a_batch_are_decoded_one_by_one_in_tiles(pipe: NuwaXLPipeline) -> None:
    tasks, sampling = [task(n) for n in range(3)], Sampling(steps=1, batch=3, tile_px=8)
    with passing(pipe) as shapes:
        together = WindowSampler(pipe, sampling).sample(tasks, pixels=True)
    assert set(shapes["decoder"]) == {(5, 4, 4, 4)}
    for result in together:
        assert result.pixels is not None
        assert result.pixels.shape == (3, 5, 16, 16)
        assert result.pixels.abs().max() <= 1
        alone = decode_window(pipe, result.latents[None], torch.float32, 8)[0]
        assert torch.equal(alone, result.pixels)


@torch.no_grad()
def test_without_tiles_frames_pass_whole(pipe: NuwaXLPipeline) -> None:
    """And bitwise as the autoencoder itself makes them, all windows of a batch at once."""
    tasks, sampler = [task(n) for n in range(3)], WindowSampler(pipe, Sampling(steps=1, batch=3))
    with passing(pipe) as shapes:
        results = sampler.sample(tasks, pixels=True)
    assert shapes == {"encoder": [(5, 3, 16, 16)] * 3, "decoder": [(15, 4, 8, 8)]}
    latents = torch.stack([result.latents for result in results])
    expected = (pipe.vae.decode(latents / pipe.vae.config.scaling_factor)).clamp(-1, 1)
    assert torch.equal(sampler.decode(latents), expected)
    pixels = torch.zeros(1, 3, 5, 16, 16)
    pixels[:, :, 0] = tasks[2].given[0].pixels
    condition, _, _ = conditioning(pipe, tasks)
    assert torch.equal(condition[2:], pipe.vae.encode(pixels).mode() * pipe.vae.config.scaling_factor)


def test_a_tile_as_large_as_the_frame_changes_no_bit(pipe: NuwaXLPipeline) -> None:
    found = [
        WindowSampler(pipe, Sampling(steps=2, batch=1, tile_px=px)).sample([task(1)], True)[0] for px in (None, 16)
    ]
    assert torch.equal(found[0].latents, found[1].latents)
    assert found[0].pixels is not None
    assert found[1].pixels is not None
    assert torch.equal(found[0].pixels, found[1].pixels)


@torch.no_grad()
def test_tiles_of_the_trained_model_show_the_same_video() -> None:
    """Encoded and decoded in tiles of 24 of 32 pixels: the error against the source stays that of whole frames."""
    pipe = load_pipeline(DEMO)
    episode = world.random_episode(3, fps=8.0)
    frames = np.stack([world.draw_frame(episode, number, 32, 32) for number in range(16)])
    video = torch.from_numpy(frames).permute(3, 0, 1, 2)[None].float() / 127.5 - 1.0

    def error(tile_px: int | None) -> float:
        latents = encode_window(pipe, video, torch.float32, tile_px)
        return float((decode_window(pipe, latents, torch.float32, tile_px) - video).square().mean())

    assert 0 < error(24) < 1.5 * error(None)


def test_an_autoencoder_in_half_precision_is_given_half_precision() -> None:
    """Pictures come in single precision; results are single precision again, whole and in tiles."""
    pipe = stack.build().to(torch.bfloat16)
    exact = encode_clips(stack.build(), [GivenClip(0, (picture(1),), Path("a.png"))])[0].latent
    for tile_px in (None, 8):
        latent = encode_clips(pipe, [GivenClip(0, (picture(1),), Path("a.png"))], tile_px)[0].latent
        assert latent.dtype == torch.float32
        assert (latent - exact).norm() < (0.05 if tile_px is None else 1.0) * exact.norm()
        assert decode_window(pipe, torch.zeros(1, 4, 5, 8, 8), torch.bfloat16, tile_px).dtype == torch.float32


@pytest.mark.parametrize("tile_px", [0, -8, 8.0, "8", True])
def test_what_is_no_size_is_refused(tile_px: Any) -> None:
    with pytest.raises(NuwaError, match=r"tile_px is .*; it must be a number above 0 and whole, or none") as error:
        Sampling(tile_px=tile_px)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("tile_px", [1, 6, 7, 9])
def test_tiles_that_do_not_fit_the_autoencoder_are_refused(pipe: NuwaXLPipeline, tile_px: int) -> None:
    """Half latent pixels, and tiles too small to share any."""
    for make in (
        lambda: WindowSampler(pipe, Sampling(tile_px=tile_px)),
        lambda: pipe("a red star", tile_px=tile_px),
    ):
        with pytest.raises(NuwaError, match=f"tile_px is {tile_px}, .*; give a multiple of 2, at least 8") as error:
            make()
        assert "\n" not in str(error.value)


def test_the_call_takes_tiles(pipe: NuwaXLPipeline) -> None:
    pipe.set_progress_bar_config(disable=True)
    with passing(pipe) as shapes:
        pipe("a red star", 5, 1, tile_px=8)
    assert {*shapes["encoder"], *shapes["decoder"]} == {(5, 3, 8, 8), (5, 4, 4, 4)}


def test_the_command_takes_tiles(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [*command(save_model(tmp_path / "model"), tmp_path), "--frames", "5", "--steps", "1"]
    assert run([*words, "--tile-px", "7"]) == 2
    assert "tile_px is 7" in capsys.readouterr().err
    assert not (tmp_path / "out.mp4").exists()
    assert run([*words, "--tile-px", "8"]) == 0
    record = json.loads((tmp_path / "out.json").read_text())
    assert record["sampling"]["tile_px"] == 8
    assert "--tile-px 8" in record["command"]
    capsys.readouterr()
    assert run(words) == 2
    assert "tile_px (8 there, None asked for)" in capsys.readouterr().err
