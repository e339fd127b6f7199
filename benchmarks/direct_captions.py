"""Captions made again, clip by clip and without Ray or batches, from the frames that a clip's row names."""

from pathlib import Path

import pandas as pd

from curation.config import CurationConfig
from curation.dataset import open_dataset
from curation.reread import reread_pictures
from curation.stages.caption import Captioner


def wrongly_captioned(dataset: Path, sample: int, seed: int) -> list[str]:
    """Ids among `sample` random clips of the dataset whose image caption is not that of their own middle frame."""
    opened = open_dataset(dataset)
    clips = opened.clips
    clips = clips.sort_values("clip_id").sample(min(sample, len(clips)), random_state=seed)
    captioner = Captioner(opened.config.caption)
    return [
        str(clip["clip_id"])
        for _, clip in clips.iterrows()
        if direct_caption(clip, opened.config, captioner) != clip["caption_coca"]
    ]


def direct_caption(clip: pd.Series, config: CurationConfig, captioner: Captioner) -> str:
    """The caption of the middle frame of one row of `clips`."""
    [pictures] = reread_pictures(str(clip["source_uri"]), [clip.to_dict()], config)
    return captioner.captions([pictures.frames[1]], [str(clip["clip_id"])])[0]
