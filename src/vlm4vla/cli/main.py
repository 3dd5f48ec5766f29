"""The command line: ``vlm4vla VERB ...``. Exit status 0 done, 1 failed, 2 wrong usage; progress on stderr.

Nothing heavy is imported before the verb is known, so ``--help`` answers at once. ``--json`` prints one JSON document
on stdout (JSON lines for lists). Configurations are ``FILE.yaml --dotted.key value ...``.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from vlm4vla.cli import bench, data, model, scores, study
from vlm4vla.cli.common import Handler, add_verb, print_json, say
from vlm4vla.processes import die_with_parent
from vlm4vla.types import RunFailed, UserError


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the console script; returns the exit status."""
    parser = _parser()
    arguments, rest = parser.parse_known_args(argv)
    if arguments.parent is not None:
        die_with_parent(arguments.parent)
    if not hasattr(arguments, "handler"):
        _deepest(parser, arguments).print_help(sys.stderr)
        return 2
    if rest and not arguments.takes_overrides:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    try:
        handler: Handler = arguments.handler
        return handler(arguments, rest)
    except UserError as error:
        say(f"vlm4vla: {error}")
        return 2
    except RunFailed as error:
        say(f"vlm4vla: {error}")
        return 1
    except BrokenPipeError:
        return 1
    except OSError as error:  # a full or read-only disk is the user's to mend
        from vlm4vla import records

        told = records.disk_error(Path(error.filename or "the output folder"), error)
        if told is error:
            raise
        say(f"vlm4vla: {told}")
        return 1
    except KeyboardInterrupt:
        say("vlm4vla: stopped; run the same command again to go on")
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vlm4vla",
        description="Find out which vision-language model, prepared in which way, makes the better robot policy.",
        epilog="Configurations: FILE.yaml --dotted.key value. Exit status: 0 done, 1 failed, 2 wrong usage.",
    )
    parser.add_argument("--parent", type=int, default=None, help=argparse.SUPPRESS)  # see processes.die_with_parent
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", dest="verb")
    doctor = add_verb(verbs, "doctor", _doctor, "what this machine has, what is missing, what to do")
    doctor.add_argument("--json", action="store_true")
    for room in (model, data, bench, study, scores):
        room.declare(verbs)
    return parser


def _doctor(a: argparse.Namespace, _rest: list[str]) -> int:
    from vlm4vla import doctor

    found = doctor.examine()
    print_json(found) if a.json else say(doctor.words(found))
    return 0 if found["ok"] else 1


def _deepest(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> argparse.ArgumentParser:
    """The parser of the verb group that was named without a verb (``vlm4vla bench``), else the top one."""
    if arguments.verb is None:
        return parser
    actions = [x for x in parser._actions if isinstance(x, argparse._SubParsersAction)]
    chosen: argparse.ArgumentParser = actions[0].choices[arguments.verb]
    return chosen
