"""What a network is told beside its input: frame positions, frame stride, and the numbers that come with a clip."""

import torch
from diffusers.models.embeddings import TimestepEmbedding, get_timestep_embedding
from torch import nn

from nuwa.hierarchy import NuwaError

NUM_FEATURES = 128
# Sinusoids of 100·x have periods from 0.06 to 600: fine enough for a motion score, wide enough for frames per second.
SCALE = 100.0


def frame_positions(num_frames: int, channels: int, like: torch.Tensor) -> torch.Tensor:
    """Sinusoids of the frame number, (t c), with dtype and device of `like`. Paper: not stated; any length works."""
    steps = torch.arange(num_frames, device=like.device)
    return get_timestep_embedding(steps, channels, flip_sin_to_cos=True, downscale_freq_shift=0).to(like.dtype)


def scalar_features(values: torch.Tensor) -> torch.Tensor:
    """Sinusoids of real numbers: (...) → (... NUM_FEATURES), float32."""
    features = get_timestep_embedding(
        values.flatten().float(), NUM_FEATURES, flip_sin_to_cos=True, downscale_freq_shift=0, scale=SCALE
    )
    return features.unflatten(0, values.shape)


def zero_last(embedding: TimestepEmbedding) -> TimestepEmbedding:
    """The same two-layer network with its last layer at zero: it says nothing until it has been trained."""
    nn.init.zeros_(embedding.linear_2.weight)
    nn.init.zeros_(embedding.linear_2.bias)
    return embedding


class ClipEmbedding(nn.Module):
    """Adds frame stride and clip numbers (fps, motion score, noise augmentation) to the embedding of the step.

    Paper: the level's embedding is not stated; here: the logarithm of the stride in frames, because the number of a
    level changes its meaning with depth. Numbers not known are NaN and take a learned null. Zero at first.
    """

    def __init__(self, channels: int, num_ids: int = 3) -> None:
        super().__init__()
        self.num_ids = num_ids
        self.null_ids = nn.Parameter(torch.zeros(num_ids, NUM_FEATURES))
        self.stride = zero_last(TimestepEmbedding(NUM_FEATURES, channels))
        self.added = zero_last(TimestepEmbedding(num_ids * NUM_FEATURES, channels))

    def forward(self, stride: torch.Tensor, added_time_ids: torch.Tensor) -> torch.Tensor:
        """Embedding (b d).

        stride: (b,), frames between neighbours, > 0
        added_time_ids: (b, num_ids), NaN where not known
        """
        if added_time_ids.shape != (len(stride), self.num_ids):
            raise NuwaError(
                f"added_time_ids of shape {tuple(added_time_ids.shape)} for {len(stride)} windows;"
                f" give ({len(stride)}, {self.num_ids}), NaN where a number is not known"
            )
        dtype = self.null_ids.dtype
        known = added_time_ids.isfinite()[..., None]
        features = scalar_features(added_time_ids.nan_to_num()).to(dtype)
        features = torch.where(known, features, self.null_ids)
        logarithm = scalar_features(stride.float().log()).to(dtype)
        return self.stride(logarithm) + self.added(features.flatten(1))
