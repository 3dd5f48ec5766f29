"""Frozen, typed configurations: strict load from YAML with dotted overrides, canonical hash, and diff.

An unknown or unread setting is an error. The schemas are in ``schemas.py``.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from vlm4vla.types import refuse


class Config(BaseModel):
    """Base of all configurations: immutable, and an unknown key is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


C = TypeVar("C", bound=Config)


def load(cls: type[C], file: Path | None, overrides: Iterable[str] = (), **values: Any) -> C:
    """Read YAML, apply ``values`` and dotted overrides (``["--a.b", "3", ...]``), validate strictly.

    Raises UserError for a missing file, broken YAML, an unknown key (with the nearest known one) or a bad value.
    """
    data: dict[str, Any] = {}
    if file is not None:
        if not file.is_file():
            siblings = sorted(str(p) for p in file.parent.glob("*.yaml")) if file.parent.is_dir() else []
            raise refuse(f"No file {str(file)!r}", given=file, possible=siblings, todo="Give the path of a YAML file.")
        try:
            data = yaml.safe_load(file.read_text()) or {}
        except yaml.YAMLError as error:
            raise refuse(
                f"{file} is not valid YAML: {error}", possible="YAML 1.1", todo="Mend the line named above."
            ) from error
        if not isinstance(data, dict):
            raise refuse(f"{file} holds {type(data).__name__}", possible="a mapping of settings", todo="Mend the file.")
    for key, value in values.items():
        data[key] = value
    for key, text in _pairs(list(overrides)):
        _put(data, key, _value(key, text))
    return validate(cls, data, source=str(file) if file else "the command line")


def validate(cls: type[C], data: Mapping[str, Any], source: str) -> C:
    """``cls`` from plain data, with pydantic's findings turned into one four-part sentence each."""
    try:
        return cls.model_validate(data)
    except ValidationError as error:
        sentences: list[str] = []
        for found in error.errors():
            where = ".".join(str(part) for part in _settings(cls, found["loc"]))
            if found["type"] == "extra_forbidden":
                known = _fields_at(cls, found["loc"][:-1])
                problem = refuse(
                    f"Unknown setting {where!r} in {source}",
                    given=str(found["loc"][-1]),
                    possible=known,
                    todo="Remove it or spell it as listed; no setting is ever ignored.",
                )
            elif found["type"] == "missing":
                problem = refuse(f"Setting {where!r} is missing in {source}", todo="Add it.")
            else:
                expected = found.get("ctx", {}).get("expected")
                shown = (
                    f"Setting {where!r} in {source} is {found['input']!r}" if not _section(found) else f"In {source}"
                )
                problem = refuse(
                    f"{shown}: {found['msg'].removeprefix('Value error, ')}",
                    possible=str(expected) if expected else None,
                    todo="Give a value of the stated kind.",
                )
            sentences.append(str(problem))
        raise refuse("\n".join(sentences).rstrip("."), todo="") from None


def to_dict(config: Config) -> dict[str, Any]:
    """Plain JSON data of a configuration (paths as strings, tuples as lists)."""
    return config.model_dump(mode="json")


def to_yaml(config: Config) -> str:
    return yaml.safe_dump(to_dict(config), sort_keys=False, allow_unicode=True)


def digest(data: Config | Mapping[str, Any] | list[Any]) -> str:
    """12 hex digits of SHA-256 over the canonical JSON: the identity of a configuration."""
    plain = to_dict(data) if isinstance(data, Config) else data
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def flatten(data: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings as dotted keys; lists stay values."""
    if not isinstance(data, Mapping):
        return {prefix: data}
    out: dict[str, Any] = {}
    for key, value in data.items():
        out.update(flatten(value, f"{prefix}.{key}" if prefix else str(key)))
    return out


def diff(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Dotted keys whose values differ, with both values (a key absent on one side counts as None)."""
    fa, fb = flatten(a), flatten(b)
    return {k: (fa.get(k), fb.get(k)) for k in sorted(fa.keys() | fb.keys()) if fa.get(k) != fb.get(k)}


def override(data: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A deep copy of ``data`` with dotted keys set."""
    copy: dict[str, Any] = json.loads(json.dumps(data))
    for key, value in changes.items():
        _put(copy, key, value)
    return copy


def _section(found: Mapping[str, Any]) -> bool:
    """Whether a finding is about several settings together (then its input is the whole section)."""
    return bool(found["type"] == "value_error") and isinstance(found["input"], dict | BaseModel)


def _value(key: str, text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        raise refuse(
            f"--{key} {text!r} is not a valid value",
            possible="YAML, such as 3, true or '[a, b]'",
            todo="Mend the value.",
        ) from None


def _pairs(words: list[str]) -> list[tuple[str, str]]:
    out: list[tuple[str, str]] = []
    while words:
        word = words.pop(0)
        if not word.startswith("--"):
            raise refuse(f"Unexpected argument {word!r}", possible="--dotted.key value", todo="Write --key value.")
        key, equals, text = word[2:].partition("=")
        if not equals:
            if not words:
                raise refuse(f"Setting --{key} has no value", possible=f"--{key} value", todo="Add the value.")
            text = words.pop(0)
        out.append((key, text))
    return out


def _put(data: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    for parent in parents:
        child = data.setdefault(parent, {})
        if not isinstance(child, dict):
            raise refuse(f"Setting {parent!r} of {key!r} is not a section", todo="Override the section's own keys.")
        data = child
    data[last] = value


def _settings(cls: type[BaseModel], location: tuple[Any, ...]) -> Iterator[Any]:
    """The parts of a finding's place that a user wrote: without the class that pydantic took a section for."""
    for place, part in enumerate(location):
        if part not in {model.__name__ for model in _models_at(cls, location[:place])}:
            yield part


def _fields_at(cls: type[BaseModel], location: tuple[Any, ...]) -> list[str]:
    models = _models_at(cls, location)
    return sorted(models[0].model_fields) if models else []


def _models_at(cls: type[BaseModel], location: tuple[Any, ...]) -> list[type[BaseModel]]:
    """The schemas that a section may have; one of several is chosen by a part that is its class' name."""
    models: list[type[BaseModel]] = [cls]
    for part in location:
        chosen = [model for model in models if model.__name__ == part]
        fields = [model.model_fields[part] for model in models if part in model.model_fields]
        if chosen or fields:
            models = chosen or [found for field in fields for found in _models(field.annotation)]
    return models


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    else:
        for inner in get_args(annotation):
            yield from _models(inner)
