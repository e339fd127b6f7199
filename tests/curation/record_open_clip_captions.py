"""Record what open_clip's own `CoCa.generate` writes on the shipped weights; `test_coca.py` expects the same tokens.

`generate` needs a transformers before 4.57; in an environment of its own:

    pip install "open_clip_torch>=2.24,<2.33" "transformers>=4.40,<4.50" torch einops pillow
    PYTHONPATH=. python -m tests.curation.record_open_clip_captions
"""

import json
from pathlib import Path

import numpy as np
import torch

WEIGHTS = Path(__file__).resolve().parents[2] / "demo" / "weights" / "coca"
RECORD = Path(__file__).parent / "data" / "open_clip_captions.json"
START, END, PAD = 1, 2, 0
NUM_PICTURES, SIDE_PX = 24, 64
SEARCHES: dict[str, dict[str, object]] = {
    "greedy": {"generation_type": "top_k", "top_k": 1, "seq_len": 16},
    "greedy, short": {"generation_type": "top_k", "top_k": 1, "seq_len": 6, "min_seq_len": 2},
    "greedy, long": {"generation_type": "top_k", "top_k": 1, "seq_len": 16, "min_seq_len": 12},
    "greedy, penalty": {"generation_type": "top_k", "top_k": 1, "seq_len": 16, "repetition_penalty": 1.7},
    "top_k": {"generation_type": "top_k", "top_k": 5, "seq_len": 16},
    "top_k, penalty": {"generation_type": "top_k", "top_k": 12, "seq_len": 12, "repetition_penalty": 1.4},
    "beam": {"generation_type": "beam_search", "seq_len": 16},
    "beam, one group": {"generation_type": "beam_search", "seq_len": 16, "num_beams": 4, "num_beam_groups": 1},
    "beam, short": {"generation_type": "beam_search", "seq_len": 7, "num_beams": 3, "num_beam_groups": 1},
    "beam, any length": {"generation_type": "beam_search", "num_beams": 4, "num_beam_groups": 2, "min_seq_len": 1},
    "beam, penalty": {
        "generation_type": "beam_search",
        "seq_len": 14,
        "num_beams": 5,
        "num_beam_groups": 1,
        "repetition_penalty": 1.6,
    },
}


def pictures() -> np.ndarray:
    """(n s s 3) uint8: discs and bars over skies and grounds of many colours, with a little noise."""
    rng = np.random.default_rng(7)
    return np.stack([_picture(rng) for _ in range(NUM_PICTURES)])


def _picture(rng: np.random.Generator) -> np.ndarray:
    y, x = np.mgrid[0:SIDE_PX, 0:SIDE_PX] / SIDE_PX
    sky, ground, hero = rng.integers(0, 256, (3, 3))
    image = np.where((y > rng.uniform(0.5, 0.9))[..., None], ground, sky).astype(np.float64)
    (cx, cy), radius = rng.uniform(0.25, 0.75, 2), rng.uniform(0.1, 0.3)
    inside = [(x - cx) ** 2 + (y - cy) ** 2 < radius**2, abs(x - cx) + abs(y - cy) < radius, abs(x - cx) < radius / 2]
    image[inside[rng.integers(3)]] = hero
    return np.clip(image + rng.normal(0, 6, image.shape), 0, 255).astype(np.uint8)


def prepared() -> torch.Tensor:
    """The pictures as the shipped model reads them: (n 3 s s) float32, -1..1."""
    return torch.from_numpy(pictures()).permute(0, 3, 1, 2).float() / 127.5 - 1.0


def draws(index: int) -> np.random.Generator:
    """The random numbers of picture `index`."""
    return np.random.default_rng((7, index))


def _drawing(generator: np.random.Generator) -> object:
    """In place of torch.multinomial, whose draws change with device and version: the same choice, by our numbers."""

    def multinomial(probabilities: torch.Tensor, num_samples: int) -> torch.Tensor:
        assert probabilities.shape[0] == num_samples == 1
        total = np.cumsum(probabilities[0].double().numpy())
        return torch.tensor([[int(np.searchsorted(total, generator.random() * total[-1], side="right"))]])

    return multinomial


def main() -> None:
    """Write the record."""
    import open_clip
    import transformers

    model = open_clip.create_model("coca_shipped", pretrained=str(WEIGHTS / "open_clip_model.safetensors")).eval()
    original, images = torch.multinomial, prepared()
    record: dict[str, list[list[int]]] = {}
    for name, search in SEARCHES.items():
        arguments = {"sot_token_id": START, "eos_token_id": END, "pad_token_id": PAD, "seq_len": 16, **search}
        if search.get("top_k", 1) == 1:
            record[name] = model.generate(images, **arguments).tolist()
            continue
        record[name] = []
        for index, image in enumerate(images):
            torch.multinomial = _drawing(draws(index))
            record[name] += model.generate(image[None], **arguments).tolist()
        torch.multinomial = original
    versions = {module.__name__: module.__version__ for module in (open_clip, transformers, torch)}
    RECORD.parent.mkdir(exist_ok=True)
    text = json.dumps({"versions": versions, "tokens": record}).replace("]], ", "]],\n").replace("], [", "],\n[")
    RECORD.write_text(text + "\n")


def register_architecture(folder: Path) -> None:
    """Make the shipped model an architecture that open_clip knows by name: old versions read no folder."""
    import open_clip

    description = json.loads((WEIGHTS / "open_clip_config.json").read_text())["model_cfg"]
    for later in ("hf_tokenizer_name", "eos_id"):  # neither takes part in writing captions
        description["text_cfg"].pop(later)
    (folder / "coca_shipped.json").write_text(json.dumps(description))
    open_clip.add_model_config(folder / "coca_shipped.json")


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as temporary:
        register_architecture(Path(temporary))
        main()
