"""What a training depends on beside its settings: a resumed run with another of these would be another training."""

from nuwa.train.fingerprints import autoencoder_hash, frozen_hash, prompt_encoder_hash, schedule_hash
from nuwa.train.mtd_stage import MtdStage
from nuwa.train.ssr_stage import SsrStage
from nuwa.train.stages import ImageStage, Stage
from nuwa.train.stunet_stage import StunetStage


def inputs_of(stage: Stage) -> dict[str, object]:
    """What a training depends on beside its settings, by the name that a message calls it."""
    inputs: dict[str, object] = {
        "number of windows": list(stage.data.counts),
        "frozen weights": frozen_hash(stage.module),
    }
    if isinstance(stage, ImageStage | MtdStage | StunetStage | SsrStage):
        pipe = stage.pipe
        inputs |= {"prompt encoder": prompt_encoder_hash(pipe), "noise schedule": schedule_hash(pipe.scheduler)}
        if pipe.vae is not None:
            inputs["autoencoder"] = autoencoder_hash(pipe.vae)
    return inputs
