"""Dataclasses to plain values and back, as YAML and JSON have them; unknown keys and wrong types are errors.

Knows no field of any dataclass.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

T = TypeVar("T")


def to_dict(config: Any) -> Any:
    """Plain JSON values of a config."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        return {f.name: to_dict(getattr(config, f.name)) for f in dataclasses.fields(config)}
    if isinstance(config, Mapping):
        return {str(key): to_dict(value) for key, value in config.items()}
    if isinstance(config, (list, tuple)):
        return [to_dict(value) for value in config]
    return config


def from_dict(cls: type[T], values: Mapping[str, Any], where: str = "") -> T:
    """Builds a config dataclass from plain values; ValueError names the key that does not fit."""
    if not isinstance(values, Mapping):
        raise ValueError(f"{where or cls.__name__}: expected a mapping, got {values!r}")
    hints = typing.get_type_hints(cls)
    names = [f.name for f in dataclasses.fields(cls)]  # type: ignore[arg-type]
    unknown = [key for key in values if key not in names]
    if unknown:
        raise ValueError(f"{where or cls.__name__}: unknown key {unknown[0]!r}; known keys: {', '.join(names)}")
    built = {key: _coerce(hints[key], value, f"{where}.{key}" if where else key) for key, value in values.items()}
    try:
        return cls(**built)
    except TypeError as error:  # a required key is missing
        raise ValueError(f"{where or cls.__name__}: {error}".replace("__init__() ", "")) from error


def override(config: T, settings: Sequence[str]) -> T:
    """Applies `key.path=value` settings; values are YAML scalars or flow collections. ValueError names a wrong key.

    Optional parts that are not there (`teacher.backbone=X`) and keys of mappings (`losses.distill=1`) are made.
    """
    import yaml

    values = to_dict(config)
    for setting in settings:
        key, separator, text = setting.partition("=")
        if not separator:
            raise ValueError(f"setting {setting!r}: expected key=value")
        *path, last = key.split(".")
        node = values
        for name in path:
            place = _place(node, name, key)
            if isinstance(node, dict) and node.get(place) is None:
                node[place] = {}
            node = node[place]
        place = _place(node, last, key)
        try:
            node[place] = yaml.safe_load(text)
        except (yaml.YAMLError, ValueError) as error:  # the latter of dates and numbers that are none
            raise ValueError(f"setting {setting!r}: not a YAML value ({' '.join(str(error).split())})") from error
    return from_dict(type(config), values)


def _place(node: Any, name: str, key: str) -> Any:
    """Index or key of what a name means in plain values: list members go by index or by their `name`.

    Whether a mapping may have such a key is known to whoever builds the dataclass.
    """
    if isinstance(node, dict):
        return name
    for position, member in enumerate(node if isinstance(node, list) else ()):
        if name == str(position) or (isinstance(member, Mapping) and member.get("name") == name):
            return position
    raise ValueError(f"setting {key!r}: no member {name!r}" + ("" if isinstance(node, list) else f" of {node!r}"))


def _coerce(hint: Any, value: Any, where: str) -> Any:
    origin, args = get_origin(hint), get_args(hint)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return from_dict(hint, value, where)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        return _coerce(next(arg for arg in args if arg is not type(None)), value, where)
    if origin is Literal:
        if value not in args:
            raise ValueError(f"{where}: {value!r}; one of {', '.join(map(str, args))}")
        return value
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise ValueError(f"{where}: expected a list, got {value!r}")
        inner = [args[0]] * len(value) if args[-1] is Ellipsis else args
        if len(value) != len(inner):
            raise ValueError(f"{where}: expected a list of {len(inner)}, got {value!r}")
        return tuple(
            _coerce(kind, item, f"{where}[{i}]") for i, (kind, item) in enumerate(zip(inner, value, strict=True))
        )
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            raise ValueError(f"{where}: expected a mapping, got {value!r}")
        return {str(key): _coerce(args[1], item, f"{where}.{key}") for key, item in value.items()}
    if hint is Any:
        return value
    if hint is float and isinstance(value, (int, str)) and not isinstance(value, bool):
        try:
            return float(value)
        except ValueError:
            pass
    if not isinstance(value, hint) or (hint is not bool and isinstance(value, bool)):
        raise ValueError(f"{where}: expected {hint.__name__}, got {value!r}")
    return value
