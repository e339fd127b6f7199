"""What tests of pipelines.generate share: a tiny model on disk, a story, and a way to run the command."""

from pathlib import Path

import torch

from nuwa.generate.config import GenerateConfig
from nuwa.generate.pipeline_folder import save_pipeline
from pipelines import cli, generate
from tests.nuwa import stack

STORY = "fps: 4\nscenes:\n- {prompt: a red star, seconds: 1}\n- {prompt: a blue circle, seconds: 1.5}\n"


def save_model(folder: Path) -> Path:
    save_pipeline(stack.build(), folder)
    return folder


def command(model: Path, folder: Path) -> list[str]:
    """A command line that works in `folder`; later words of the same flag replace earlier ones."""
    (folder / "story.yaml").write_text(STORY)
    named = {"--model": model, "--story": folder / "story.yaml", "--output": folder / "out.mp4", "--steps": 2}
    return [str(word) for pair in named.items() for word in pair]


def run(words: list[str]) -> int:
    """Exit status of `python -m pipelines.generate` with these words, in this process."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return cli.run(generate.main, GenerateConfig, words)
    finally:
        torch.set_num_threads(threads)
