"""Compare generated videos with real ones: distances, faithfulness to prompts, flicker, seams and drift, as JSON.

Every figure stands beside its interval and beside the same figure of real videos.
"""

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from rich.progress import Progress

from nuwa.evaluate.config import EvaluateConfig, check_config
from pipelines import cli

if TYPE_CHECKING:
    from nuwa.evaluate.scene_probe import SceneProbe


@dataclass(frozen=True, kw_only=True)
class Evaluate(EvaluateConfig):
    probe: Literal["toon"] | None = None
    """toon reads place, colour, shape and action of every scene back from the pixels of toon videos, and whether hero
    and places stay."""


def main(config: Evaluate) -> None:
    """Evaluate, write the JSON, print one line per figure and one per figure that was left out."""
    check_config(config)
    from nuwa.evaluate.job import evaluate, prepare, write_report  # torch takes seconds to import

    job = prepare(config)
    with Progress(transient=True) as progress:
        task = progress.add_task("clips", total=job.clips)
        report = evaluate(job, on_clip=lambda: progress.advance(task), scene_probe=_scene_probe(config))
    write_report(report, config.output)
    for line in _lines(report):
        print(line)
    print(config.output)


def _scene_probe(config: Evaluate) -> "SceneProbe | None":
    if config.probe is None:
        return None
    from demo.scene_probe import TOON

    return TOON


def _lines(report: dict[str, dict]) -> list[str]:
    figures = [f"{name:24} {_text(figure):32} {_beside(figure)}" for name, figure in report["figures"].items()]
    left_out = [f"left out: {name}: {reason}" for name, reason in report["left_out"].items()]
    skipped = [
        f"skipped: {entry['video']}: {entry['reason']}"
        for kind in ("real", "generated")
        for entry in report[kind]["skipped"]
    ]
    short = [f"too short for {report['format']['frames']} frames: {name}" for name in report["generated"]["too_short"]]
    return [*figures, *left_out, *skipped, *short]


def _beside(figure: dict) -> str:
    """The same of real videos, and the control and chance of a figure that has them."""
    real = f"real {_text(figure['floor']) if figure['floor'] else 'not known'}"
    beside = (("other prompts", "control_with_prompts_of_another_video"), ("chance", "chance"))
    return "  ".join([real, *(f"{name} {_text(figure[key])}" for name, key in beside if figure[key])])


def _text(estimate: dict) -> str:
    value, interval = estimate["value"], estimate["interval"]
    if value is None:
        return "none"
    return f"{value:.4g}" if interval is None else f"{value:.4g} [{interval[0]:.4g}, {interval[1]:.4g}]"


if __name__ == "__main__":
    sys.exit(cli.run(main, Evaluate))
