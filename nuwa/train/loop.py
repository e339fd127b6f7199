"""One training loop for every stage: AdamW, warm-up, clipping, averaged weights, checkpoints, resume."""

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext

import torch
from torch import nn
from torch.utils.data import DataLoader

from nuwa.data.runs import Run, read_runs
from nuwa.data.windows import Order, StepBatches, WindowSample
from nuwa.generate.pipeline_folder import save_pipeline
from nuwa.models.inflated_unet import InflatedUNet
from nuwa.models.vae import TemporalVAE
from nuwa.train import workers
from nuwa.train.best import Best
from nuwa.train.checkpoint import Checkpoint, best_step, load_agreed, save_checkpoint
from nuwa.train.clip_components import starting_clip_pipeline
from nuwa.train.compiled import as_written, check_compiler, compile_parts
from nuwa.train.components import starting_pipeline
from nuwa.train.config import AUTOENCODER_STAGES, TrainConfig, TrainError
from nuwa.train.config_checks import batch_share, resolve
from nuwa.train.curves import Curves
from nuwa.train.device import autocast_type, device_of, memory_explained
from nuwa.train.ema import Ema
from nuwa.train.image_vae_stage import ImageVaeStage
from nuwa.train.inputs import inputs_of
from nuwa.train.learner import Learner, NotFiniteError
from nuwa.train.mtd_stage import MtdStage
from nuwa.train.progress import Meter, Progress, Report
from nuwa.train.run_folder import (
    check_inputs,
    check_output,
    finished,
    has_model,
    only_writer,
    remove_drafts,
    step_name,
    steps_in,
    write_config,
)
from nuwa.train.samples import write_sample
from nuwa.train.schedule import lr_factor
from nuwa.train.sharding import StageWeights
from nuwa.train.shards import Tensors, collected
from nuwa.train.ssr_stage import SsrStage
from nuwa.train.stages import Adversary, ImageStage, Losses, Stage
from nuwa.train.stunet_stage import StunetStage
from nuwa.train.utilisation import Utilisation
from nuwa.train.vae_stage import VaeStage

log = logging.getLogger(__name__)

NAMED_WINDOWS = 32
"""Most windows of a step that a message names."""

STAGE_TYPES: dict[str, type[ImageVaeStage] | type[ImageStage] | type[VaeStage] | type[MtdStage]] = {
    "image-vae": ImageVaeStage,
    "image": ImageStage,
    "vae": VaeStage,
    "mtd": MtdStage,
}
CLIP_STAGE_TYPES: dict[str, type[StunetStage] | type[SsrStage]] = {"stunet": StunetStage, "ssr": SsrStage}


def train(
    config: TrainConfig,
    report: Report | None = None,
    *,
    rank: int = 0,
    world: int = 1,
    until: int | None = None,
    prepare: Callable[[Stage], None] | None = None,
) -> None:
    """Run one stage to its end, or go on where an earlier run of the same command stopped.

    `rank` of `world` processes share each step when torch.distributed is initialised. `until` stops after that
    step, as if interrupted. `prepare` changes the stage before its optimiser is made, for instance which weights
    train. Raises TrainError, DataError or NuwaError when the user must change something.
    """
    config = resolve(config)
    if rank == 0:  # the others might see what this one is just writing
        check_output(config)
    if workers.first_says(finished(config)):
        return
    torch.set_num_threads(config.threads or max(1, (os.cpu_count() or 1) // world))
    runs = read_runs(config.dataset, config.where)
    device = device_of(rank)
    if config.compile:
        check_compiler(device)
    with memory_explained(), ExitStack() as held:
        stage = _stage(config, runs, device)
        if prepare is not None:
            prepare(stage)
        if rank == 0:
            held.enter_context(only_writer(config.output))
            check_output(config)  # again: another training may have begun there meanwhile
            inputs = inputs_of(stage)
            check_inputs(config, inputs)
            write_config(config, inputs)
            remove_drafts(config.output)
        Trainer(config, stage, rank, world).run(report or _print, until or config.steps or 0)


def _stage(config: TrainConfig, runs: Sequence[Run], device: torch.device) -> Stage:
    """The stage to train, with what it starts from."""
    run = runs[0]
    if config.stage in CLIP_STAGE_TYPES:
        return CLIP_STAGE_TYPES[config.stage](config, starting_clip_pipeline(config, run), runs, device)
    pipe = starting_pipeline(config, run)
    # Sizes and frame rate that a pipeline names are those it was last trained at.
    pipe.register_to_config(height=run.height, width=run.width, train_fps=run.train_fps)
    return STAGE_TYPES[config.stage](config, pipe, runs, device)


class Trainer:
    """A stage with its learners, averaged weights and position."""

    def __init__(self, config: TrainConfig, stage: Stage, rank: int = 0, world: int = 1) -> None:
        self.config, self.stage, self.rank, self.world = config, stage, rank, world
        self.steps, self.lr = config.steps or 0, config.lr or 0.0
        self.batch = batch_share(config.batch or 0, world)
        self.device = next(stage.module.parameters()).device
        if config.gradient_checkpointing:
            stage.module.enable_gradient_checkpointing()  # type: ignore[operator]  # all are diffusers models
        self.weights = StageWeights(stage, config.sharding)
        if config.compile:
            compile_parts(stage.module)
        self.learner = Learner(
            stage.module,
            weight_decay=config.weight_decay,
            clip_norm=config.clip_norm,
            faster=_temporal(stage.module) if config.temporal_lr_factor != 1 else (),
            lr_factor=config.temporal_lr_factor,
        )
        self.opponent = _opponent(config, stage.adversary)
        self.ema = Ema(stage.module, config.ema_decay)
        self.order = Order(
            counts=stage.data.counts, pattern=stage.pattern, batch=self.batch, seed=config.seed, world=world
        )
        self.autocast = autocast_type(config, self.device)
        self.utilisation = Utilisation(self.device)
        self.best = Best(config.checkpoint_every)
        self.step = 0

    def run(self, report: Report, until: int) -> None:
        """Train from the newest readable checkpoint to step `until`, then leave a checkpoint and the model."""
        torch.manual_seed(self.config.seed)  # no draw comes from it, but checkpoints hold its state
        self.resume()
        self.stage.module.train()
        if self.step == until and not workers.first_says(has_model(self.config)):
            self.save()  # somebody has taken the model away
        with self._curves() as curves:
            meter = Meter(self.config.stage, self.steps, self.batch * self.world)
            for samples in meter.waiting(self._batches(until)):
                meter.add(self.take_step(samples))
                if self._is_due(self.config.log_every, until):
                    self._log(meter.read(self.step), curves, report)
                with meter.paused():
                    if self.config.sample_every and self._is_due(self.config.sample_every, self.steps):
                        self._sample(curves)
                    if self._is_due(self.config.checkpoint_every, until):
                        self.save()

    def _is_due(self, every: int, until: int) -> bool:
        """Whether what happens `every` so many steps, and at the end, happens now."""
        return self.step % every == 0 or self.step == until

    def _sample(self, curves: Curves | None) -> None:
        """A sample of the averaged weights, by the first worker; the random numbers of the training stay."""
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices), self._uncompiled(), self.weights.averaged(self.ema) as here, self._cast():
            if not here:
                return
            shown = self.stage.show()
        write_sample(shown, self.config.output, self.step)
        if curves is not None:
            curves.add(shown.figures, self.step, "sample")

    def _uncompiled(self) -> AbstractContextManager[None]:
        return as_written() if self.config.compile else nullcontext()

    def _cast(self) -> torch.autocast:
        return torch.autocast(self.device.type, self.autocast, enabled=self.autocast is not None)

    def _curves(self) -> AbstractContextManager[Curves | None]:
        """TensorBoard's file, written by rank 0 only: the run folder is not the others' to make."""
        return nullcontext() if self.rank > 0 else Curves(self.config.output / "logs", self.step)

    def _batches(self, until: int) -> Iterator[list[WindowSample]]:
        loader = DataLoader(
            self.stage.data,
            batch_sampler=StepBatches(self.order, start=self.step, stop=until, rank=self.rank),
            collate_fn=list,
            num_workers=self.config.loader_workers,
            generator=torch.Generator(),
        )
        return iter(loader)

    def take_step(self, samples: list[WindowSample]) -> Losses:
        """One optimiser step; the stage's losses and the gradient's norm. Raises TrainError if it is not finite."""
        playing = self.stage.adversary is not None and self.step >= self.config.adversarial_start
        if self.stage.adversary is not None:
            self.stage.adversary.playing = playing
        with self.utilisation.counted():
            losses = self._add_gradients(samples, self.order.draws(self.step, self.rank))
        lr = self._lr(self.step)
        try:
            norm = self.learner.take_step(lr)
            if self.opponent is not None and playing:
                self.opponent.take_step(lr)
        except NotFiniteError as error:
            raise self._stopped(self.step, error) from error
        self.ema.update()
        self.best.add(losses["loss"])
        self.step += 1
        return losses | {"grad_norm": norm}

    def _add_gradients(self, samples: Sequence[WindowSample], draws: range) -> Losses:
        """Give the learners the gradient of a batch, part after part; the losses of all its windows."""
        parts: list[Losses] = []
        size = len(samples) // self.config.accumulate
        for first in range(0, len(samples), size):
            part = slice(first, first + size)
            with self._cast():
                losses = self.stage.losses(samples[part], draws[part])
            self.learner.add(losses["loss"], size / len(samples))
            if self.opponent is not None and "discriminator" in losses:
                self.opponent.add(losses["discriminator"], size / len(samples))
            parts.append({name: value.detach().flatten() for name, value in losses.items()})
        names = dict.fromkeys(name for losses in parts for name in losses)
        return {name: torch.cat([losses[name] for losses in parts if name in losses]) for name in names}

    def _lr(self, step: int) -> float:
        """Learning rate at `step`, counted from 0."""
        config = self.config
        return self.lr * lr_factor(step, self.steps, config.warmup, config.decay_frac, config.decay)

    def _stopped(self, step: int, error: NotFiniteError) -> TrainError:
        """What to say of a step, counted from 0, that must not be kept: its windows, in all workers, and what is."""
        output, kept = self.config.output, steps_in(self.config.output / "checkpoints")
        remedy = "no checkpoint is written yet; start anew"
        if kept:
            last = output / "checkpoints" / step_name(kept[-1])
            remedy = f"the last checkpoint, {last}, stays; start another --output from {output / 'model'} by --init"
        return TrainError(
            f"step {step + 1} is not finite ({error}; {self._windows(step)}); nothing of it is kept, {remedy}, "
            f"with a smaller --lr than {self.lr:g} or without these runs"
        )

    def _windows(self, step: int) -> str:
        """Runs, first frames and clips of what all workers read at a step, the first windows of it."""
        indices = [index for rank in range(self.world) for index in self.order.indices(step, rank)]
        named = [self.stage.data.describe(index) for index in indices[:NAMED_WINDOWS]]
        return ", ".join(named) + (f" and {len(indices) - len(named)} more" if len(indices) > len(named) else "")

    def _log(self, progress: Progress, curves: Curves | None, report: Report) -> None:
        progress.scalars["lr"] = self._lr(self.step - 1)
        progress.scalars.update(self.utilisation.scalars(progress.scalars["steps_per_s"]))
        if curves is not None:
            curves.add(progress.scalars, progress.step)
            report(progress)

    def _learners(self) -> list[Learner]:
        return [self.learner] if self.opponent is None else [self.learner, self.opponent]

    def save(self) -> None:
        """Write model/ with the averaged weights, then a checkpoint: a checkpoint of the last step means done."""
        self._check_weights()
        is_best = self.best.read() and self.config.keep_best
        self._save_model(("model", "best") if is_best else ("model",))
        checkpoint = Checkpoint(
            step=self.step,
            weights=collected(_merged(learner.weights() for learner in self._learners())),
            ema=collected(self.ema.average),
            optimizer=collected(_merged(learner.moments() for learner in self._learners())),
            rng=self._random_state(),
            numbers={"ema_updates": self.ema.num_updates, **self.best.numbers()},
        )
        if self.rank == 0:
            root, keep = self.config.output / "checkpoints", self.config.keep_checkpoints
            save_checkpoint(checkpoint, root, keep, best=is_best)

    def _save_model(self, names: Iterable[str]) -> None:
        """Write the pipeline with the averaged weights into these folders, by the first worker; it copies no weight."""
        measures = self.config.stage in AUTOENCODER_STAGES  # the scale of its latents, for the pipeline
        with self._uncompiled(), self.weights.averaged(self.ema, to_compute=measures) as here:
            if not here:
                return
            pipe = self.stage.pipeline()
            for name in names:
                save_pipeline(pipe, self.config.output / name)

    def _check_weights(self) -> None:
        """Raise TrainError for weights that the last step has made infinite: its own gradient was not."""
        try:
            for learner in self._learners():
                learner.check_weights()
        except NotFiniteError as error:
            raise self._stopped(self.step - 1, error) from error

    def _random_state(self) -> Tensors:
        """State of the random numbers of the CPU, and of the GPU that trains."""
        state = {"torch": torch.get_rng_state()}
        if self.device.type == "cuda":
            state["cuda"] = torch.cuda.get_rng_state(self.device)
        return state

    def resume(self) -> None:
        """Take up the newest readable checkpoint, saying so when a newer one is damaged."""
        checkpoint, problems = load_agreed(self.config.output / "checkpoints")
        for problem in problems:
            log.warning("%s; going on from step %d", problem, checkpoint.step if checkpoint else 0)
        if checkpoint is None:
            return
        self.step = checkpoint.step
        for learner in self._learners():
            learner.load(checkpoint)
        self.ema.load(checkpoint.ema, int(checkpoint.numbers["ema_updates"]))
        if best_step(self.config.output / "checkpoints") is not None:
            self.best.load(checkpoint.numbers)
        torch.set_rng_state(checkpoint.rng["torch"])
        if self.device.type == "cuda" and "cuda" in checkpoint.rng:  # older checkpoints have none
            torch.cuda.set_rng_state(checkpoint.rng["cuda"], self.device)


def _temporal(module: nn.Module) -> Iterable[nn.Parameter]:
    """Weights that an image network does not have; none of an image network."""
    return module.temporal_parameters() if isinstance(module, InflatedUNet | TemporalVAE) else ()


def _opponent(config: TrainConfig, adversary: Adversary | None) -> Learner | None:
    """The learner of a discriminator. Paper: not stated; here: the moments usual for it, and no weight decay."""
    if adversary is None:
        return None
    return Learner(
        adversary.module, weight_decay=0.0, clip_norm=config.clip_norm, betas=(0.5, 0.9), prefix="adversary."
    )


def _merged(parts: Iterable[Tensors]) -> Tensors:
    return {name: tensor for part in parts for name, tensor in part.items()}


def _print(progress: Progress) -> None:
    print(progress.line(), flush=True)
