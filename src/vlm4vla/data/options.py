"""Options of readers: what a reader's ``__init__`` takes after ``root``, and texts turned into values of its types."""

import inspect
import math
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from vlm4vla.types import refuse

_BOOLEANS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
_NOTHING: Any = types.NoneType
_NARROW_TO_WIDE = (_NOTHING, bool, int, float, Path, str)  # of a union, the first type that fits a text is taken
_UNREADABLE = object()


def split_pairs(pairs: list[str]) -> dict[str, str]:
    """``KEY=VALUE`` words as a mapping; refuses a word without '=' and a key given twice."""
    found: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise refuse(f"--option {pair!r} was given", possible="KEY=VALUE", todo="Write it as KEY=VALUE.")
        if key in found:
            raise refuse(f"The option {key!r} was given twice", todo="Give it once.")
        found[key] = value
    return found


def values(kind: type[Any], name: str, given: Mapping[str, object]) -> dict[str, object]:
    """``given`` as keyword arguments for ``kind(root, ...)``; ``name`` is what error messages call the reader.

    A text is read by the declared type: str, int, float, bool, Path, None, a Literal of texts, or a union of these.
    Other values must be of a declared type already. Refuses unknown and missing options and values that do not fit.
    """
    known = _parameters(kind)
    settable = {key: p for key, p in known.items() if _types(p) not in ("", "none")}  # others are for programs
    told = f"The reader takes {', '.join(_told(p) for p in settable.values()) or 'no options'}."
    for key in given:
        if key not in known:
            raise refuse(f"The reader {name!r} has no option {key!r}", given=key, possible=list(settable), todo=told)
    for key, parameter in known.items():
        if parameter.default is parameter.empty and key not in given:
            raise refuse(
                f"The reader {name!r} needs the option {key!r}",
                possible=f"{key}={_types(parameter)}",
                todo=f"Give it: --option {key}=VALUE.",
            )
    return {key: _value(known[key], value) for key, value in given.items()}


def renamed(words: str) -> list[tuple[str, str | None]]:
    """``STORED=NAME, OTHER`` as [(STORED, NAME), (OTHER, None)]: names in a data set, and those that they get."""
    pairs = [word.partition("=") for word in words.split(",")]
    return [(stored.strip(), name.strip() if equals else None) for stored, equals, name in pairs]


def plain(value: object) -> object:
    """An option's value as it is written in a record: JSON data, a path as its text."""
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def _parameters(kind: type[Any]) -> dict[str, inspect.Parameter]:
    """Parameters of ``__init__`` after ``self`` and ``root``."""
    found = list(inspect.signature(kind.__init__, eval_str=True).parameters.values())[2:]
    return {p.name: p for p in found if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)}


def _members(parameter: inspect.Parameter) -> list[Any]:
    annotation = parameter.annotation
    return list(get_args(annotation)) if get_origin(annotation) in (Union, types.UnionType) else [annotation]


def _types(parameter: inspect.Parameter) -> str:
    """As people read it: ``train|val``, ``int|none``. Types that no text can give are left out."""
    names: list[str] = []
    for member in _members(parameter):
        if get_origin(member) is Literal:
            names += [str(choice) for choice in get_args(member)]
        elif member in _NARROW_TO_WIDE:
            names.append("none" if member is _NOTHING else member.__name__.lower())
    return "|".join(names)


def _told(parameter: inspect.Parameter) -> str:
    default = "" if parameter.default is parameter.empty else f" (without it: {plain(parameter.default)})"
    return f"{parameter.name}={_types(parameter)}{default}"


def _value(parameter: inspect.Parameter, given: object) -> object:
    members = _members(parameter)
    choices = [choice for m in members if get_origin(m) is Literal for choice in get_args(m)]
    if given in choices:
        return given
    if isinstance(given, str):
        for kind in _NARROW_TO_WIDE:
            read = _read(kind, given) if kind in members else _UNREADABLE
            if read is not _UNREADABLE:
                return read
    elif type(given) is int and float in members and int not in members:
        return float(given)
    elif any(_is_a(given, member) for member in members):
        return given
    raise refuse(
        f"The option {parameter.name} cannot be {given!r}",
        given=given,
        possible=choices or _types(parameter),
        todo=f"Give --option {parameter.name}=VALUE with such a value.",
    )


def _is_a(value: object, member: Any) -> bool:
    """Whether a value that is no text is of the type; True is no number."""
    return isinstance(member, type) and isinstance(value, member) and (member is bool or not isinstance(value, bool))


def _read(kind: Any, text: str) -> object:
    """``text`` as the type, or ``_UNREADABLE``."""
    word = text.strip().lower()
    if kind is _NOTHING:
        return None if word in ("none", "null") else _UNREADABLE
    if kind is bool:
        return _BOOLEANS.get(word, _UNREADABLE)
    if kind in (int, float):
        try:
            number = kind(text)
        except ValueError:
            return _UNREADABLE
        return number if math.isfinite(number) else _UNREADABLE
    return kind(text).expanduser() if kind is Path and text else text if text else _UNREADABLE
