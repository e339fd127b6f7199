"""Settings of a training that say which data its levels and rows get: levels, their shares, images, runs."""

import math

from nuwa.train.config import TrainConfig, TrainError


def trained_levels(config: TrainConfig) -> list[int]:
    """Levels whose windows are trained on, the global one (0) first. Raises TrainError where there are none."""
    every = list(range(config.depth))
    if config.stage != "mtd":
        return every
    levels = {"global": every[:1], "local": every[1:], "all": every}[config.levels]
    if not levels:
        raise TrainError(f"depth {config.depth} has no local levels; give a depth of at least 2, or --levels global")
    return levels


def check_data(config: TrainConfig) -> None:
    """Raise TrainError for levels that there are not, shares that do not fit them, and images where none can be."""
    levels = trained_levels(config)
    if config.level_shares is not None:
        _check_shares(config.level_shares, levels)
    if config.image_frac == 1:
        raise TrainError("image_frac is 1, which leaves no windows; give less, or train the stage image")
    if config.latents is not None and config.init is None:
        raise TrainError(
            f"latents is {config.latents}, but there is no init; latents need the --init they were encoded with"
        )
    if config.image_frac > 0 and config.latents is not None:
        raise TrainError(
            f"image_frac is {config.image_frac}, but folders of latents hold windows only; leave one of both away"
        )


def _check_shares(shares: tuple[float, ...], levels: list[int]) -> None:
    given = " ".join(f"{share:g}" for share in shares)
    if len(shares) != len(levels):
        named = ", ".join(map(str, levels))
        raise TrainError(f"level_shares is {given}; give one number for each of the levels that are trained, {named}")
    if len(levels) == 1:
        raise TrainError(f"level_shares is {given}, but one level only is trained; leave it away")
    if not all(math.isfinite(share) and share > 0 for share in shares):
        raise TrainError(f"level_shares is {given}; each must be a number above 0")
