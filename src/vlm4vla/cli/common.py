"""What the verbs share: declaring a verb, printing sentences, lines and documents."""

import argparse
import json
import sys
from collections.abc import Callable, Iterable
from typing import Any

Handler = Callable[[argparse.Namespace, list[str]], int]
"""Parsed arguments and the dotted overrides that follow them; returns the exit status."""


def add_verb(verbs: Any, name: str, handler: Handler, text: str, overrides: bool = False) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = verbs.add_parser(name, help=text, description=text)
    parser.set_defaults(handler=handler, takes_overrides=overrides)
    return parser


def add_group(verbs: Any, name: str, text: str) -> Any:
    return verbs.add_parser(name, help=text, description=text).add_subparsers(metavar="VERB", dest="subverb")


def print_lines(lines: Iterable[dict[str, Any]], as_json: bool, words: Callable[[dict[str, Any]], str]) -> None:
    for line in lines:
        sys.stdout.write((json.dumps(line) if as_json else words(line)) + "\n")


def print_document(data: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(data)
    else:
        import yaml

        sys.stdout.write(yaml.safe_dump(data, sort_keys=False, allow_unicode=True))


def print_json(data: Any) -> None:
    sys.stdout.write(json.dumps(data, indent=1, allow_nan=False) + "\n")


def say(sentence: str) -> None:
    sys.stderr.write(sentence + "\n")


def names_of(room: str) -> list[str]:
    from vlm4vla import registry

    return registry.names(room)


def list_of(room: str) -> str:
    return ", ".join(names_of(room))
