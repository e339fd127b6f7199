"""Duplicates, as a section of the page: copies beside what they are copies of, and the pairs that nearly were."""

from __future__ import annotations

import pandas as pd

from curation.config import DedupConfig
from curation.lineage import copies
from curation.page import Section
from curation.report_clips import caption, place, reasons_of, sheet
from curation.stages.dedup import most_alike
from curation.stages.select import DUPLICATE

MOST_PAIRS, MOST_ALIKE = 6, 3


def duplicates(clips: pd.DataFrame, config: DedupConfig) -> Section:
    """On one side of the line copies beside their originals, the least similar first; on the other the clips that look
    most alike and both stay.
    """
    pairs = copies(clips)
    pairs = pairs.assign(same_frames=_same_frames(pairs))
    exact = int(pairs["same_frames"].sum())
    line = "only the very same frames count" if config.eps is None else f"a cosine of {1 - config.eps:g} counts"
    note = (
        f"{len(pairs):,} of {len(clips):,} clips are copies of a better one: {exact:,} have its very frames, "
        f"{len(pairs) - exact:,} look like it ({line}). Left the copy, right its original; the least similar pairs "
        "first."
    )
    marked = "".join(_pair(row) for _, row in _shown(pairs).iterrows())
    alike = "".join(_pair(row) for _, row in _most_alike(clips, config).iterrows())
    body = f'<h3>Copies</h3><div class="pairs">{marked}</div>' if marked else ""
    body += f'<h3>No copies, yet most alike</h3><div class="pairs">{alike}</div>' if alike else ""
    return Section("duplicates", "Duplicates", note if marked else f"No clip is a copy of another: {line}.", body)


def _same_frames(pairs: pd.DataFrame) -> pd.Series:
    digest = pairs["content_digest"]
    return digest.notna() & (digest != "") & (digest == pairs["content_digest_of_original"])


def _shown(pairs: pd.DataFrame) -> pd.DataFrame:
    """The least similar pairs first; of those with the same frames one for each two videos, which share `num_pairs`."""
    videos = ["video_id", "video_id_of_original"]
    counted = pairs.assign(num_pairs=pairs.groupby([*videos, "same_frames"])["clip_id"].transform("size")).iloc[::-1]
    exact = counted[counted["same_frames"]].drop_duplicates(videos)
    return pd.concat([counted[~counted["same_frames"]], exact]).head(MOST_PAIRS)


def _most_alike(clips: pd.DataFrame, config: DedupConfig) -> pd.DataFrame:
    """The most similar pairs on the other side of the line, in the columns of `copies` without dup_of."""
    if "clip_embedding" not in clips:
        return clips.iloc[:0]
    found = most_alike(clips, MOST_ALIKE, config)
    pairs = found.merge(clips.drop(columns=["dup_of", "dup_similarity"]), on="clip_id")
    originals = clips.add_suffix("_of_original")
    pairs = pairs.merge(originals, left_on="other_clip_id", right_on="clip_id_of_original")
    return pairs.rename(columns={"cosine": "dup_similarity"}).assign(same_frames=False)


def _pair(row: pd.Series) -> str:
    """A copy and its original side by side."""
    original = row[[name for name in row.index if str(name).endswith("_of_original")]]
    original = original.rename(lambda name: name.removesuffix("_of_original"))
    words, notes = f"similarity {row['dup_similarity']:.4f}", []
    if row["same_frames"]:
        words = "the same frames"
        notes += [f"one of {row['num_pairs']:,} pairs from these two files"] if row["num_pairs"] > 1 else []
    if "dup_of" in row and DUPLICATE not in reasons_of(row):
        notes.append("kept all the same")
    halves = "".join(
        f"<figure>{sheet(clip)}<figcaption>{caption(clip)}<em>{place(clip)}</em></figcaption></figure>"
        for clip in (row, original)
    )
    head = f'<div class="head"><b>{words}</b><span>{", ".join(notes)}</span></div>'
    return f'<div class="card pair">{head}<div class="two">{halves}</div></div>'
