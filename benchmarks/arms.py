"""Arms of an ablation: trained alike, measured on the same held-out windows, and compared with the paper's order.

What is done is kept on disk, so a benchmark that was killed goes on: an arm from its last checkpoint, a measurement
from its file.
"""

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.plots import Line
from benchmarks.results import RESULTS, table
from nuwa.evaluate.bootstrap import Bootstrap, Estimate, Floats, Indices, estimate
from nuwa.hierarchy import NuwaError

if TYPE_CHECKING:
    from nuwa.train.config import TrainConfig
    from nuwa.train.progress import Progress
    from nuwa.train.stages import Stage

Values = dict[str, Floats]
"""What was measured: name → numbers, the first axis of each counts held-out windows or videos."""
RESAMPLES = Bootstrap(draws=1000)


class ArmError(NuwaError):
    """A folder of arms cannot be used as asked."""


@dataclass(frozen=True, kw_only=True)
class Ablation:
    """Settings that the ablations of trained arms share."""

    dataset: Path = Path("runs/weights/dataset")
    """Curated toon dataset."""
    work: Path
    """Folder for arms and measurements; what is there is not made again."""
    seed: int = 0
    """Of the training; episodes have seeds of their own."""
    quick: bool = False
    """Two steps, two episodes, print only."""
    results: Path = RESULTS
    """File whose section is replaced; the plot goes into figures/ beside it."""

    def claim_work(self) -> None:
        """Make the folder this ablation's. ArmError when it holds results of other settings."""
        claim(
            self.work, {name: value for name, value in vars(self).items() if name not in ("work", "results", "quick")}
        )


def claim(work: Path, settings: Mapping[str, object]) -> None:
    """Make `work` the folder of one benchmark with these settings. ArmError when it holds results of others."""
    path, wanted = work / "settings.json", json.loads(json.dumps(settings, default=str))
    if path.is_file():
        before = json.loads(path.read_text("utf-8"))
        changed = [name for name in wanted.keys() | before.keys() if wanted.get(name) != before.get(name)]
        if changed:
            name = min(changed)
            raise ArmError(
                f"work {work} holds results with {name} {before.get(name)}, not {wanted.get(name)}; "
                "give another --work, or remove that folder"
            )
        return
    if work.is_dir() and any(work.iterdir()):
        raise ArmError(f"work {work} is not empty and holds no benchmark; give a new or empty folder")
    work.mkdir(parents=True, exist_ok=True)
    _write(path, json.dumps(wanted, indent=2) + "\n")


def remembered(path: Path, make: Callable[[], Values]) -> Values:
    """What `make` measures, from its file if it was measured before."""
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(path, json.dumps({name: np.asarray(values).tolist() for name, values in make().items()}) + "\n")
    return {name: np.array(values, np.float64) for name, values in json.loads(path.read_text("utf-8")).items()}


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f"_{path.name}.{os.getpid()}")
    temporary.write_text(text, "utf-8")
    temporary.replace(path)


def train_to(config: "TrainConfig", step: int, prepare: "Callable[[Stage], None] | None" = None) -> Path:
    """Train until `step` steps are done, going on where the run folder stands; the folder of the model.

    prepare: changes the stage before its optimiser is made: what trains, what it remembers
    """
    from nuwa.train.loop import train

    train(config, _report, until=step, prepare=prepare)
    return config.output / "model"


def _report(progress: "Progress") -> None:
    print(progress.line(), file=sys.stderr, flush=True)


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One figure of every arm.

    of: arm and which windows, some perhaps several times → the figure
    order: the arms as the paper ranks them, best first; empty where it does not
    """

    name: str
    of: Callable[[str, Indices], float]
    order: tuple[str, ...] = ()
    lower_is_better: bool = True
    digits: int = 3


def mean_of(found: Mapping[str, Values], name: str) -> Callable[[str, Indices], float]:
    """`Measure.of` for a mean over windows; NaN stands for a window that has no such figure."""
    return lambda arm, chosen: float(np.nanmean(found[arm][name][chosen]))


def measure_table(measures: Sequence[Measure], arms: Sequence[str], sources: Indices) -> list[str]:
    """Arms down, measures across, with intervals over sources (windows of one source are not independent)."""
    rows = [[arm, *(shown(of_arm(measure, arm, sources), measure.digits) for measure in measures)] for arm in arms]
    return table(["arm", *(f"{measure.name} ({_better(measure)})" for measure in measures)], rows)


def of_arm(measure: Measure, arm: str, sources: Indices) -> Estimate:
    """The figure of an arm with its interval."""
    return estimate(lambda chosen: measure.of(arm, chosen), sources, RESAMPLES, measure.name)


def advantage(measure: Measure, better: str, worse: str, sources: Indices) -> Estimate:
    """By how much `better` is better, on the same windows: above 0 where it is, whatever the measure's direction."""
    sign = 1.0 if measure.lower_is_better else -1.0
    return estimate(
        lambda chosen: sign * (measure.of(worse, chosen) - measure.of(better, chosen)), sources, RESAMPLES, measure.name
    )


def verdict_of(found: Estimate) -> str:
    """What an advantage says about the order of two arms."""
    if found.low is None or found.high is None:
        return "no interval"
    if found.low > 0:
        return "as in the paper"
    return "**the other way round**" if found.high < 0 else "not told apart"


def order_lines(measures: Sequence[Measure], sources: Indices) -> list[str]:
    """For every two neighbours in the paper's order, how far they lie apart here and what that says."""
    lines = []
    for measure in measures:
        verdicts = []
        for better, worse in pairwise(measure.order):
            found = advantage(measure, better, worse, sources)
            verdicts.append(verdict_of(found))
            lines.append(
                f"- {measure.name}: {better} is better than {worse} by {shown(found, measure.digits)}: {verdicts[-1]}"
            )
        if verdicts:
            lines.append(f"- {measure.name}, the paper's order {' > '.join(measure.order)}: **{_summary(verdicts)}**")
    return lines


def _summary(verdicts: Sequence[str]) -> str:
    if all(verdict == "as in the paper" for verdict in verdicts):
        return "reproduced"
    agreed = sum(verdict == "as in the paper" for verdict in verdicts)
    return f"not reproduced ({agreed} of {len(verdicts)} neighbours as in the paper)"


def shown(found: Estimate, digits: int) -> str:
    """Figure and interval."""
    if found.low is None or found.high is None:
        return f"{found.value:.{digits}f}"
    return f"{found.value:.{digits}f} ({found.low:.{digits}f} to {found.high:.{digits}f})"


def curve(arm: str, by_step: Mapping[int, Measure], sources: Indices) -> Line:
    """A figure of an arm over its steps, with intervals."""
    found = [of_arm(measure, arm, sources) for measure in by_step.values()]
    return Line(arm, list(by_step), [e.value for e in found], [e.low for e in found], [e.high for e in found])


def _better(measure: Measure) -> str:
    return "lower is better" if measure.lower_is_better else "higher is better"


def marks(steps: int, count: int) -> Iterator[int]:
    """Steps at which an arm is measured: `count` evenly spaced ones after the start, the last one included."""
    return (round(steps * number / count) for number in range(1, count + 1))
