"""The error of everything that the user can put right, and the check that raises it."""


class CurationError(ValueError):
    """Something the user can put right: one line saying what is wrong and what to do."""


def require(holds: bool, name: str, value: object, rule: str) -> None:
    """Raise CurationError naming the field, its value and the rule unless the rule `holds`."""
    if not holds:
        raise CurationError(f"{name} = {value!r} must be {rule}")
