"""Measure the shipped CoCa and aesthetic head on held-out toon scenes, and write the figures of their model card.

    python -m demo.evaluate_coca --weights demo/weights

Captions, embeddings and ratings come from the curation stages themselves; only the truth is ours.
"""

import dataclasses
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from curation.model_config import AestheticsConfig, CaptionConfig, EmbedConfig, VideoCaptionConfig
from curation.stages.aesthetics import AestheticHead
from curation.stages.caption import Captioner
from curation.stages.embed import FrameEmbedder
from curation.stages.video_caption import VideoCaptioner
from demo import world
from pipelines import cli

SIZE_PX = 128
CHOICES = 64


@dataclass(frozen=True, kw_only=True)
class EvaluateCoca:
    """Measure the small CoCa and its aesthetic head on held-out scenes."""

    weights: Path = Path("demo/weights")
    """Folder with coca/ and aesthetic.safetensors; coca/figures.json is written there."""
    scenes: int = 400
    """Held-out scenes to draw."""
    seed: int = 1_000_000
    """Seed of the scenes."""


def draw_scenes(seed: int, count: int) -> list[world.Scene]:
    """Held-out scenes, titled and degraded ones among them."""
    rng = np.random.default_rng(seed)
    return [world.random_scene(rng, world.random_hero(rng, True), True) for _ in range(count)]


def draw_at(scene: world.Scene, done: float) -> np.ndarray:
    """The frame when the fraction `done` of the scene has passed."""
    return world.draw_scene(scene, done * scene.duration_s, SIZE_PX, SIZE_PX, noise_seed=int(done * 1000))


def caption_accuracy(
    scenes: list[world.Scene], captioner: Captioner, video_captioner: VideoCaptioner
) -> dict[str, float]:
    """Share of scenes whose captions name the colour, place and shape (middle frame) and the action (grid)."""
    keys = [str(number) for number in range(len(scenes))]
    clips = [np.stack([draw_at(scene, done) for done in (0.125, 0.375, 0.625, 0.875)]) for scene in scenes]
    image_captions = captioner.captions([draw_at(scene, 0.5) for scene in scenes], keys)
    video_captions = video_captioner.captions(clips, keys)
    names = ("colour", "place", "shape", "action", "shape and action", "whole image caption", "whole video caption")
    right = dict.fromkeys(names, 0)
    for scene, image_caption, video_caption in zip(scenes, image_captions, video_captions, strict=True):
        words = image_caption.split()
        right["colour"] += scene.colour in words
        right["place"] += scene.place in words
        right["shape"] += scene.shape in words
        right["action"] += f" {scene.action} " in video_caption
        right["shape and action"] += scene.shape in words and f" {scene.action} " in video_caption
        right["whole image caption"] += image_caption == scene.image_caption
        right["whole video caption"] += video_caption == scene.caption
    return {name: count / len(scenes) for name, count in right.items()}


def auc(positive: np.ndarray, negative: np.ndarray) -> float:
    """Probability that a positive scores above a negative; ties count half."""
    above = positive[:, None] > negative[None]
    ties = positive[:, None] == negative[None]
    return float((above + 0.5 * ties).mean())


def aesthetic_auc(scenes: list[world.Scene], embedder: FrameEmbedder, head: AestheticHead) -> float:
    """How surely the head ranks a clean frame above a degraded one."""
    clean = [dataclasses.replace(scene, quality="clean") for scene in scenes]
    bad = [dataclasses.replace(s, quality=world.QUALITIES[1 + i % 3], title="") for i, s in enumerate(scenes)]
    scores = [head.score(embedder.images([draw_at(scene, 0.5) for scene in group])) for group in (clean, bad)]
    return auc(*scores)


def retrieval_top1(embedder: FrameEmbedder, seed: int, rounds: int = 20) -> float:
    """Share of captions that find their own frame among `CHOICES` frames with different captions."""
    by_caption = {scene.image_caption: scene for scene in draw_scenes(seed + 1, 20 * CHOICES)}
    captions = sorted(by_caption)
    images = embedder.images([draw_at(by_caption[caption], 0.5) for caption in captions])
    similarity = embedder.texts(captions) @ images.T
    rng, found = np.random.default_rng(seed), []
    for _ in range(rounds):
        chosen = rng.choice(len(captions), CHOICES, replace=False)
        found.append(similarity[np.ix_(chosen, chosen)].argmax(axis=1) == np.arange(CHOICES))
    return float(np.mean(found))


def measure(config: EvaluateCoca) -> dict[str, float]:
    """All figures of the model card."""
    scenes, coca_dir = draw_scenes(config.seed, config.scenes), config.weights / "coca"
    embedder = FrameEmbedder(EmbedConfig(weights=coca_dir))
    head = AestheticHead.load(AestheticsConfig(head=config.weights / "aesthetic.safetensors"))
    captioners = Captioner(CaptionConfig(weights=coca_dir)), VideoCaptioner(VideoCaptionConfig(weights=coca_dir))
    figures = caption_accuracy(scenes, *captioners)
    figures["aesthetic AUC clean/degraded"] = aesthetic_auc(scenes, embedder, head)
    figures[f"text→frame top-1 of {CHOICES}"] = retrieval_top1(embedder, config.seed)
    return figures


def main(config: EvaluateCoca) -> None:
    figures = measure(config)
    path = config.weights / "coca" / "figures.json"
    path.write_text(json.dumps({"scenes": config.scenes, "seed": config.seed, **figures}, indent=2) + "\n")
    for name, value in figures.items():
        print(f"{name:32} {value:.3f}")


if __name__ == "__main__":
    sys.exit(cli.run(main, EvaluateCoca))
