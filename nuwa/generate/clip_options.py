"""Options that would do nothing for the clip that is asked for: refused, so that none is passed over in silence."""

from nuwa.generate.config import GenerateConfig
from nuwa.hierarchy import NuwaError


def check_pictures(config: GenerateConfig) -> None:
    """Raise NuwaError for what is to be done with given pictures where none are, or none is done anything with."""
    if config.mode == "text" and config.put_back:
        raise NuwaError("--put-back does nothing in --mode text, where nothing is given; leave it out")
    if config.mode == "text" and config.fit != "exact":
        raise NuwaError(f"--fit {config.fit} does nothing in --mode text, which reads no pictures; leave it out")
    if config.mode == "outpaint" and config.fit != "exact" and config.place is None:
        raise NuwaError(
            f"--fit {config.fit} does nothing in --mode outpaint without --place, where the video keeps its own size; "
            "leave it out, or give --place LEFT TOP WIDTH HEIGHT"
        )


def check_windows(config: GenerateConfig, num_frames: int, window: int) -> None:
    """Raise NuwaError for numbers about windows where the clip, no longer than `window`, is made as a whole."""
    if num_frames > window:
        return
    for name, number in (("overlap", config.overlap), ("batch", config.batch)):
        if number is not None:
            raise NuwaError(
                f"--{name} {number} is for clips longer than the {window} frames that the model was trained for, "
                f"and this one has {num_frames}; leave it out, or ask for more --frames"
            )
