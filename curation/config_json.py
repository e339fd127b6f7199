"""Any config dataclass as JSON and back, and as a fingerprint that changes with every value."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import types
import typing
from collections.abc import Collection
from pathlib import Path
from typing import Any, Literal, TypeVar

from curation.config_error import CurationError

T = TypeVar("T")


def to_dict(config: Any) -> dict[str, Any]:
    """Any config dataclass as JSON-ready values; paths become strings, tuples become lists."""
    plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(config), default=str))
    return plain


def to_json(config: Any) -> str:
    """Any config dataclass as indented JSON."""
    return json.dumps(to_dict(config), indent=2)


def from_json(text: str, config_type: type[T]) -> T:
    """Read what `to_json` wrote.

    Raises:
        CurationError: no JSON, an unknown or missing field, a value of another type or against a rule of the config.
    """
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise CurationError(
            f"the configuration is not JSON ({error}): restore it or start with a new output"
        ) from error
    return typing.cast(T, _build(config_type, values, config_type.__name__))


def fingerprint(config: Any, without: Collection[str] = ()) -> str:
    """16 hex digits that change with any value of the dataclass `config`, fields named in `without` left out.

    Of a path only the last two parts count, so a moved checkout keeps it.
    """
    values = {name: value for name, value in dataclasses.asdict(config).items() if name not in without}
    return fingerprint_of_text(json.dumps(values, default=_path_tail, sort_keys=True))


def fingerprint_of_text(*texts: str) -> str:
    """16 hex digits of some texts in order."""
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16]


def _path_tail(value: object) -> str:
    assert isinstance(value, Path), f"only paths need help to become JSON, not {value!r}"
    return "/".join(value.parts[-2:])


def _build(kind: Any, value: Any, where: str) -> Any:
    """`value` from JSON as `kind` (dataclass, tuple of one type, optional, Path or plain)."""
    if dataclasses.is_dataclass(kind):
        return _build_dataclass(kind, value, where)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is tuple:
        if not isinstance(value, list):
            raise CurationError(f"{where} = {value!r} must be a list")
        return tuple(_build(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if origin in (types.UnionType, typing.Union):
        inner = next(a for a in arguments if a is not type(None))
        return None if value is None else _build(inner, value, where)
    if origin is Literal and value not in arguments:
        raise CurationError(f"{where} = {value!r} must be one of {', '.join(map(str, arguments))}")
    return value if origin is Literal else _plain(kind, value, where)


def _plain(kind: type, value: Any, where: str) -> Any:
    """`value` as bool, int, float, str or Path; a whole number may stand for a float."""
    wanted: Any = {Path: str, float: (int, float)}.get(kind, kind)
    if not isinstance(value, wanted) or (isinstance(value, bool) and kind is not bool):
        raise CurationError(f"{where} = {value!r} must be of type {kind.__name__}")
    return Path(value) if kind is Path else value


def _build_dataclass(kind: Any, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise CurationError(f"{where} = {value!r} must be an object with fields")
    hints = typing.get_type_hints(kind)
    unknown = sorted(set(value) - set(hints))
    if unknown:
        raise CurationError(f"{where} has no field {unknown[0]!r}: use {', '.join(hints)}")
    without = (dataclasses.MISSING, dataclasses.MISSING)
    needed = [item.name for item in dataclasses.fields(kind) if (item.default, item.default_factory) == without]
    for name in needed:
        if name not in value:
            raise CurationError(f"{where} lacks the field {name!r}: add it")
    return kind(**{name: _build(hints[name], item, f"{where}.{name}") for name, item in value.items()})
