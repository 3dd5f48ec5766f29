"""What a check of a store says: one finding per fault, with the episodes, what was measured and what to do."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

Severity = Literal["error", "warning"]
_NAMED = 5  # episodes named in a sentence


@dataclass(frozen=True)
class Finding:
    """``check`` is the name of the rule; ``episodes`` are numbers in the store, empty when all are meant.

    An error makes a policy wrong or the set unusable; a warning is for a person to judge. ``measured`` is a sentence
    with numbers, ``todo`` says what to do.
    """

    severity: Severity
    check: str
    measured: str
    todo: str
    episodes: tuple[int, ...] = ()

    def where(self) -> str:
        """``all episodes``, or the first few numbers and how many more."""
        if not self.episodes:
            return "all episodes"
        first = ", ".join(str(e) for e in self.episodes[:_NAMED])
        more = len(self.episodes) - _NAMED
        return f"episode{'s' if len(self.episodes) > 1 else ''} {first}" + (f" and {more} more" if more > 0 else "")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data; at most a hundred episode numbers, and how many they are."""
        return {
            "severity": self.severity,
            "check": self.check,
            "episodes": list(self.episodes[:100]),
            "episode_count": len(self.episodes),
            "measured": self.measured,
            "todo": self.todo,
        }


def episodes(numbers: Iterable[Any]) -> tuple[int, ...]:
    return tuple(int(n) for n in numbers)


def percent(share: float) -> str:
    """0.0312 as '3.1 %'."""
    return f"{100 * share:.2g} %" if share < 0.1 else f"{100 * share:.0f} %"
