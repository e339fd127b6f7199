"""Duplicates among clips, marked and never deleted: exact ones share their decoded frames, semantic ones look alike.

Clips go by rank, the best first. A clip that nothing before it resembles stays and represents its copies; any other is
a duplicate of the most similar representative, so `dup_of` never leads to a clip that is a duplicate itself. k-means
only spares comparisons: a cluster is left out where geometry rules a match out, so every pair near a border is found
and the result depends neither on the clusters nor on the order of the rows. No matrix of all pairs is ever made.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from curation.config import DedupConfig
from curation.config_error import CurationError

ROWS_AT_ONCE = 2048
"""Clips compared in one step; bounds the memory of similarities to this many times the largest cluster."""
EVERY_PAIR = 10_000
"""Up to this many clips the most alike pairs are looked for among all."""
KMEANS_SAMPLE = 64
"""Clips per cluster that k-means learns from."""
KMEANS_STEPS = 8
ROUNDING = 1e-5
"""Slack of the distance tests: more than what single precision loses."""

SOURCES = {"resolution": ("width", "height"), "video_frames": ("video_id", "num_frames")}
"""Columns that a preference is made from; any other is a column itself."""
OF_COPIES = ("resolution", "video_frames")
"""Preferences that tell exact copies apart: what else they differ in is rounding by their containers."""

Floats = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]


def find_duplicates(clips: pd.DataFrame, config: DedupConfig) -> pd.DataFrame:
    """Which clips are copies of which.

    Reads clip_id and, where there is one, video_id; content_digest and num_frames for exact copies; clip_embedding with
    `eps`; what `prefer` names: width and height, video_id and num_frames, duration_s, aesthetic_score.

    Returns:
        A table indexed like `clips`: dup_of, clip_id of the better copy or None; dup_similarity, float32, cosine to
        it, 1.0 for the same frames, NaN where dup_of is None.

    Raises:
        CurationError: a column is missing, two rows have one clip_id, or embeddings differ in width: they are of
            different models.
    """
    _require_columns(clips, config)
    keys = [name for name in ("video_id", "clip_id") if name in clips]
    table = clips.reset_index(drop=True).sort_values(keys, kind="stable")
    _require_unique(table["clip_id"])
    table = table.iloc[_by_rank(table, [name for name in config.prefer if name in OF_COPIES])]
    group = _exact_groups(table) if config.exact else np.arange(len(table))
    owner, similarity = np.arange(len(table)), np.ones(len(table), dtype=np.float32)
    if config.eps is not None:
        leaders = np.unique(group)
        ranked = leaders[_by_rank(table.iloc[leaders], config.prefer)]
        rows, embeddings = _embeddings(table, group, ranked)
        target, cosine = _nearest_leaders(embeddings, config.eps, _clusters(embeddings, config))
        owner[rows], similarity[rows] = rows[target], cosine
    return _as_columns(clips, table, owner[group], np.where(owner[group] == group, 1, similarity[group]))


def most_alike(clips: pd.DataFrame, num_pairs: int, config: DedupConfig) -> pd.DataFrame:
    """The pairs of clips that are no duplicates and yet look most alike: what a wider `eps` would take next.

    Reads clip_id, clip_embedding, dup_of. Every pair is compared up to EVERY_PAIR clips, above that only pairs within a
    cluster.

    Returns:
        At most `num_pairs` rows, the most similar first: clip_id < other_clip_id, cosine.
    """
    table = clips[clips["dup_of"].isna()].sort_values("clip_id", kind="stable")
    own = np.arange(len(table))
    rows, vectors = _embeddings(table, own, own)
    clusters = _clusters(vectors, config).of_vector if len(rows) > EVERY_PAIR else np.zeros(len(rows), dtype=np.int64)
    found = [np.zeros((0, 3))]
    for cluster in np.unique(clusters):
        members = np.flatnonzero(clusters == cluster)
        for block in _blocks(len(members)):
            later = np.arange(len(members)) > np.arange(block.start, block.stop)[:, None]  # each pair once
            cosines = np.where(later, vectors[members[block]] @ vectors[members].T, -np.inf)
            best = np.argpartition(-cosines, min(num_pairs, cosines.size - 1), axis=None)[:num_pairs]
            first, second = np.unravel_index(best, cosines.shape)
            pairs = np.stack([members[block][first], members[second], cosines[first, second]], axis=1)
            found = [_first_pairs(np.concatenate([*found, pairs[np.isfinite(pairs[:, 2])]]), num_pairs)]
    ids, (one, other) = table["clip_id"].to_numpy(dtype=object)[rows], found[0][:, :2].astype(np.int64).T
    return pd.DataFrame({"clip_id": ids[one], "other_clip_id": ids[other], "cosine": np.minimum(found[0][:, 2], 1)})


def _first_pairs(pairs: npt.NDArray[np.float64], count: int) -> npt.NDArray[np.float64]:
    """Rows (one, other, cosine) of the highest cosines."""
    return pairs[np.lexsort((pairs[:, 1], pairs[:, 0], -pairs[:, 2]))][:count]


def _require_columns(clips: pd.DataFrame, config: DedupConfig) -> None:
    needed = ["clip_id", *(["content_digest", "num_frames"] if config.exact else [])]
    needed += [] if config.eps is None else ["clip_embedding"]
    needed += [column for name in config.prefer for column in SOURCES.get(name, (name,))]
    missing = [name for name in dict.fromkeys(needed) if name not in clips]
    if missing:
        raise CurationError(f"clips: deduplication needs the columns {', '.join(missing)}: curate the footage again")


def _require_unique(clip_ids: pd.Series) -> None:
    repeated = clip_ids[clip_ids.duplicated()]
    if len(repeated):
        raise CurationError(f"clips: clip_id {repeated.iloc[0]!r} appears twice: give every clip once")


def _as_columns(clips: pd.DataFrame, table: pd.DataFrame, final: Indices, similarity: Floats) -> pd.DataFrame:
    """From rows of `table`, each with the row that stays in its place, to columns in the order of `clips`."""
    copies = final != np.arange(len(table))
    ids, order = table["clip_id"].to_numpy(dtype=object), table.index.to_numpy()
    dup_of, dup_similarity = np.full(len(table), None, dtype=object), np.full(len(table), np.nan, dtype=np.float32)
    dup_of[order[copies]] = ids[final[copies]]
    dup_similarity[order[copies]] = similarity[copies]
    columns = {"dup_of": pd.Series(dup_of, dtype=object), "dup_similarity": dup_similarity}
    return pd.DataFrame(columns).set_axis(clips.index)


def _by_rank(table: pd.DataFrame, preferences: Sequence[str]) -> Indices:
    """Positions of the rows of `table`, the best first, ties as they are; what was not measured comes last."""
    keys = [-np.nan_to_num(_preference(table, name), nan=-np.inf) for name in reversed(preferences)]
    return np.lexsort(keys) if keys else np.arange(len(table))


def _preference(table: pd.DataFrame, name: str) -> npt.NDArray[np.float64]:
    columns = [pd.to_numeric(table[column]) for column in SOURCES.get(name, (name,)) if column != "video_id"]
    if name == "video_frames":
        columns = [column.groupby(table["video_id"]).transform("sum") for column in columns]
    return np.prod([column.to_numpy(dtype=np.float64, na_value=np.nan) for column in columns], axis=0)


def _exact_groups(table: pd.DataFrame) -> Indices:
    """(n,) for each row the first row with the same decoded frames, itself where there is none or no digest."""
    own = pd.Series(np.arange(len(table)))
    digest = table["content_digest"].reset_index(drop=True)
    keys = [digest, table["num_frames"].reset_index(drop=True)]
    first = own.groupby(keys, dropna=False).transform("min")
    return first.where(digest.notna() & (digest != ""), own).to_numpy(dtype=np.int64)


def _embeddings(table: pd.DataFrame, group: Indices, ranked: Indices) -> tuple[Indices, Floats]:
    """Those of the groups `ranked` with an embedding, and its unit vectors (n d): of its first clip that has one."""
    vectors = [None if value is None or np.ndim(value) != 1 else value for value in table["clip_embedding"]]
    widths = sorted({len(vector) for vector in vectors if vector is not None})
    if len(widths) > 1:
        raise CurationError(f"clip_embedding has widths {widths}: compare clips of one embedding model only")
    present = np.array([row for row, vector in enumerate(vectors) if vector is not None], dtype=np.int64)
    if present.size == 0:
        return present, np.zeros((0, 1), dtype=np.float32)
    stacked = np.stack([np.asarray(vectors[row], dtype=np.float32) for row in present])
    norm = np.sqrt(np.einsum("nd,nd->n", stacked, stacked))
    usable = np.flatnonzero(np.isfinite(norm) & (norm > 0))
    member = pd.Series(usable, index=group[present[usable]])
    chosen = member[~member.index.duplicated()].reindex(ranked).dropna().astype(np.int64)
    place = chosen.to_numpy()
    unit = stacked[place]
    unit /= norm[place, None]
    return chosen.index.to_numpy(), unit


# --- clusters ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Clusters:
    """Unit centres (k d); for each vector its centre, that is the most similar one."""

    centres: Floats
    of_vector: Indices

    def reach(self, vectors: Floats, own: Indices, radius: float) -> npt.NDArray[np.bool_]:
        """(n k): may a vector of that cluster lie within `radius` of this one?

        The vectors nearer to centre b than to a fill a half-space. From x, which is nearer to a, it is
        ((x, a) - (x, b)) / |a - b| away, for centres of unit length.
        """
        cosines = vectors @ self.centres.T
        lead = np.take_along_axis(cosines, own[:, None], axis=1) - cosines
        apart = np.sqrt(np.clip(2 - 2 * self.centres @ self.centres.T, 0, None))
        return lead <= (radius + ROUNDING) * apart[own] + ROUNDING


def _clusters(vectors: Floats, config: DedupConfig) -> _Clusters:
    """Spherical k-means (Lloyd's steps on a sample) over unit vectors (n d); empty clusters are left out."""
    count = min(config.num_clusters or round(len(vectors) ** 0.5), len(vectors))
    rng = np.random.default_rng(config.seed)
    sample = vectors[rng.permutation(len(vectors))[: KMEANS_SAMPLE * count]]
    centres = sample[:count]
    for _ in range(KMEANS_STEPS):
        sums = np.zeros_like(centres)
        np.add.at(sums, _nearest(sample, centres), sample)
        norm = np.linalg.norm(sums, axis=1, keepdims=True)
        centres = np.where(norm > 1e-6, sums / np.maximum(norm, 1e-6), centres)
    used, of_vector = np.unique(_nearest(vectors, centres), return_inverse=True)
    return _Clusters(centres[used], of_vector.astype(np.int64))


def _nearest(vectors: Floats, centres: Floats) -> Indices:
    parts = [np.argmax(vectors[rows] @ centres.T, axis=1) for rows in _blocks(len(vectors))]
    return np.concatenate([np.zeros(0, dtype=np.int64), *parts])


def _blocks(count: int) -> Iterator[slice]:
    return (slice(start, min(start + ROWS_AT_ONCE, count)) for start in range(0, count, ROWS_AT_ONCE))


# --- leaders ----------------------------------------------------------------------------------------------------------


def _nearest_leaders(vectors: Floats, eps: float, clusters: _Clusters) -> tuple[Indices, Floats]:
    """Go through unit vectors (n d) by rank; one with no leader of cosine >= 1 - eps before it leads from then on.

    Returns for each the most similar leader of a better rank, itself for a leader, and the cosine to it.
    """
    least = np.float32(1 - eps)
    target, best = np.arange(len(vectors)), np.full(len(vectors), -np.inf, dtype=np.float32)
    members: list[Indices] = [np.zeros(0, dtype=np.int64) for _ in clusters.centres]
    for rows in _blocks(len(vectors)):
        block, own = vectors[rows], clusters.of_vector[rows]
        reach = clusters.reach(block, own, np.sqrt(2 * eps))
        for cluster, leaders in enumerate(members):
            asking = np.flatnonzero(reach[:, cluster])
            if leaders.size and asking.size:
                _take_better(target, best, asking + rows.start, block[asking] @ vectors[leaders].T, leaders, least)
        _settle_block(target, best, rows.start, block, least)
        new = np.flatnonzero(target[rows] == np.arange(rows.start, rows.stop))
        for cluster in np.unique(own[new]):
            members[cluster] = np.concatenate([members[cluster], rows.start + new[own[new] == cluster]])
    return target, np.where(target == np.arange(len(vectors)), 1, np.minimum(best, 1)).astype(np.float32)


def _take_better(
    target: Indices, best: Floats, rows: Indices, cosines: Floats, leaders: Indices, least: np.float32
) -> None:
    """Give `rows` the most similar of `leaders` where it is similar enough and better than what they have."""
    place = np.argmax(cosines, axis=1)
    cosine, leader = cosines[np.arange(len(rows)), place], leaders[place]
    better = (cosine > best[rows]) | ((cosine == best[rows]) & (leader < target[rows]))
    chosen = better & (cosine >= least)
    target[rows[chosen]], best[rows[chosen]] = leader[chosen], cosine[chosen]


def _settle_block(target: Indices, best: Floats, start: int, block: Floats, least: np.float32) -> None:
    """Matches within one block, in order of rank: a leader found here may have copies further down."""
    cosines = np.tril(block @ block.T, -1)
    cosines[cosines < least] = -np.inf
    for row in np.flatnonzero(np.isfinite(cosines).any(axis=1)):
        leads = target[start : start + row] == np.arange(start, start + row)
        similar = np.where(leads, cosines[row, :row], -np.inf)
        place = int(np.argmax(similar))
        if similar[place] > best[start + row]:
            target[start + row], best[start + row] = start + place, similar[place]
