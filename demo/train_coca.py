"""Train the CoCa and the aesthetic head that ship in demo/weights, on toon frames and 2×2 frame grids.

    python -m demo.train_coca --output demo/weights --steps 2400

The same model sees single frames with image captions and grids with video captions, so it captions both.
Paper: CoCa (arXiv 2205.01917): contrastive loss + 2 × captioning loss. Here equal captions count as positives of each
other, because a batch of toon captions repeats itself.
"""

import dataclasses
import sys
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from rich.progress import track
from safetensors.torch import save_file
from torch import Tensor, nn

from demo import coca, world
from pipelines import cli

Images = NDArray[np.uint8]
FILM_SIZE_PX = 128
FRAME_SIZE_PX = 64
CAPTION_LOSS_WEIGHT = 2.0
CLEAN_RATING, DEGRADED_RATING = 8.0, 2.0


@dataclass(frozen=True, kw_only=True)
class TrainCoca:
    """Train the small CoCa and its aesthetic head."""

    output: Path = Path("demo/weights")
    """Folder that receives coca/ and aesthetic.safetensors."""
    steps: int = 2400
    """Optimiser steps."""
    batch: int = 128
    """Samples a step: half single frames, half grids."""
    init: Path | None = None
    """Weights folder to go on from; default random weights."""
    word_dropout: float = 0.2
    """Share of caption words that the decoder does not get to see, so that it looks at the picture instead of
    finishing word pairs it knows."""
    learning_rate: float = 1e-3
    """Peak of the cosine schedule."""
    seed: int = 0
    """Seed of weights and data."""


def film(scene: world.Scene, time_s: float, size_px: int, rng: np.random.Generator) -> Images:
    """Draw one frame as footage shows it: filmed at 128 px, now and then dim or compressed, then made small."""
    image = world.draw_scene(scene, time_s, FILM_SIZE_PX, FILM_SIZE_PX, noise_seed=int(rng.integers(2**31)))
    if rng.random() < 0.1:
        image = np.round(image * rng.uniform(0.5, 1)).astype(np.uint8)
    if rng.random() < 0.3:
        quality = int(rng.integers(40, 95))
        _, packed = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
        image = np.asarray(cv2.imdecode(packed, cv2.IMREAD_COLOR), np.uint8)
    return np.asarray(cv2.resize(image, (size_px, size_px), interpolation=cv2.INTER_AREA), np.uint8)


def film_frame(scene: world.Scene, rng: np.random.Generator) -> Images:
    """One frame at any time of the scene → (64 64 3)."""
    return film(scene, float(rng.uniform(0, scene.duration_s)), FRAME_SIZE_PX, rng)


def film_grid(scene: world.Scene, rng: np.random.Generator) -> Images:
    """Four frames at the middles of the scene's quarters, in reading order → (64 64 3)."""
    first, last = rng.uniform(-0.1, 0.2), scene.duration_s + rng.uniform(-0.2, 0.1)
    times = first + (np.arange(4) + 0.5 + rng.uniform(-0.1, 0.1, 4)) / 4 * (last - first)
    cells = [film(scene, float(time), FRAME_SIZE_PX // 2, rng) for time in times]
    return np.vstack([np.hstack(cells[:2]), np.hstack(cells[2:])])


def random_scene(rng: np.random.Generator, held_out: bool) -> world.Scene:
    """A scene of its own; a quarter of them degraded, so that the adjectives and the head see enough."""
    scene = world.random_scene(rng, world.random_hero(rng, held_out), held_out)
    if rng.random() < 1 / 8:
        scene = dataclasses.replace(scene, quality=str(rng.choice(world.QUALITIES[1:])), title="")
    return scene


def sample_batch(rng: np.random.Generator, size: int, held_out: bool = False) -> tuple[Images, list[str]]:
    """Draw `size` samples, frames and grids in turn → images (b 64 64 3) and captions."""
    images, captions = [], []
    for index in range(size):
        scene = random_scene(rng, held_out)
        images.append(film_grid(scene, rng) if index % 2 else film_frame(scene, rng))
        captions.append(scene.caption if index % 2 else scene.image_caption)
    return np.stack(images), captions


def to_input(images: Images) -> Tensor:
    """(b h w 3) uint8 → (b 3 h w) in [−1, 1], as the saved preprocessing does."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1


def coca_loss(output: dict[str, Tensor], captions: list[str]) -> tuple[Tensor, Tensor]:
    """Contrastive loss with equal captions as positives, and captioning loss (next token, padding ignored)."""
    index = {caption: i for i, caption in enumerate(dict.fromkeys(captions))}
    ids = torch.tensor([index[caption] for caption in captions])
    same = (ids[:, None] == ids[None]).float()
    positives = same / same.sum(1, keepdim=True)
    logits = output["logit_scale"] * output["image_features"].float() @ output["text_features"].float().T
    contrastive = (F.cross_entropy(logits, positives) + F.cross_entropy(logits.T, positives)) / 2
    pad = coca.SPECIAL_IDS["<pad>"]
    captioning = F.cross_entropy(output["logits"].float().flatten(0, 1), output["labels"].flatten(), ignore_index=pad)
    return contrastive, captioning


def drop_words(tokens: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Replace that share of the words in half of the captions by `<unk>`; (b n) int64, special tokens stay."""
    words = tokens > max(coca.SPECIAL_IDS.values())
    words[len(words) // 2 :] = False
    dropped = words & (torch.rand(tokens.shape, generator=generator) < share)
    return tokens.masked_fill(dropped, coca.SPECIAL_IDS["<unk>"])


def train(config: TrainCoca) -> nn.Module:
    """Run the optimisation and return the model in evaluation mode."""
    model, tokenizer = coca.create_model(config.seed), coca.build_tokenizer()
    if config.init is not None:
        coca.load_weights(model, config.init / "coca")
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, betas=(0.9, 0.98), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, config.learning_rate, total_steps=config.steps, pct_start=0.05
    )
    for step in track(range(config.steps), "CoCa"):
        images, captions = sample_batch(np.random.default_rng([config.seed, step]), config.batch)
        tokens = tokenizer(captions, padding="max_length", return_tensors="pt").input_ids
        generator = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
        with torch.autocast("cpu", torch.bfloat16):
            output = model(to_input(images), drop_words(tokens, config.word_dropout, generator))
        output["labels"] = tokens[:, 1:]
        contrastive, captioning = coca_loss(output, captions)
        (contrastive + CAPTION_LOSS_WEIGHT * captioning).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        with torch.no_grad():
            model.get_parameter("logit_scale").clamp_(0, np.log(100))
        if step % 100 == 99:
            print(f"step {step + 1}: contrastive {contrastive:.3f} captioning {captioning:.3f}", flush=True)
    return model.eval()


@torch.inference_mode()
def fit_aesthetic_head(model: nn.Module, seed: int, num_frames: int = 4000) -> dict[str, Tensor]:
    """Least squares from the normalised embedding to the rating of the frame (LAION v1's form: one linear layer)."""
    rng = np.random.default_rng([seed, 1])
    embeddings, ratings = [], []
    for _ in range(num_frames // 100):
        scenes = [world.random_scene(rng, world.random_hero(rng, False), False, clean=True) for _ in range(100)]
        scenes[::2] = [dataclasses.replace(s, quality=str(rng.choice(world.QUALITIES[1:]))) for s in scenes[::2]]
        images = np.stack([film_frame(scene, rng) for scene in scenes])
        embeddings.append(model.get_submodule("visual")(to_input(images))[0])
        ratings += [CLEAN_RATING if scene.quality == "clean" else DEGRADED_RATING for scene in scenes]
    x = F.normalize(torch.cat(embeddings), dim=-1).double()
    x = torch.cat([x, torch.ones(len(x), 1, dtype=x.dtype)], dim=1)
    gram = x.T @ x + 1e-3 * torch.eye(x.shape[1], dtype=x.dtype)
    solution = torch.linalg.solve(gram, x.T @ torch.tensor(ratings, dtype=x.dtype)).float()
    return {"weight": solution[None, :-1].contiguous(), "bias": solution[-1:].contiguous()}


def main(config: TrainCoca) -> None:
    model = train(config)
    coca.save_model(model, config.output / "coca")
    save_file(fit_aesthetic_head(model, config.seed), config.output / "aesthetic.safetensors")


if __name__ == "__main__":
    sys.exit(cli.run(main, TrainCoca))
