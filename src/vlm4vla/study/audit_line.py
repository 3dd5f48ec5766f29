"""One line of the audit: a setting or a recorded fact over all rows of the study."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal["must-equal", "may-differ", "declared"]


@dataclass(frozen=True)
class Line:
    """``values``: row name -> value; a row that the line does not concern is not in it.

    ``follows``: the settings that this is a consequence of: where the study's factor or a waiver names one of them, it
    covers this line too. ``causes``: row name -> what these settings are there; rows that agree in them have nothing to
    excuse a difference. ``groups``: row name -> rows that are compared with each other (default: all of them).
    ``broken``: row name -> in which way the run went against its own settings. ``factor_counts`` is false for what no
    factor excuses. ``note`` is the reason of a fault, where it does not go without saying; ``excuse`` the reason for
    which a difference is none.
    """

    setting: str
    values: Mapping[str, Any]
    kind: Kind = "must-equal"
    follows: tuple[str, ...] = ()
    causes: Mapping[str, str] | None = None
    groups: Mapping[str, Any] | None = None
    broken: Mapping[str, str] = field(default_factory=dict)
    factor_counts: bool = True
    note: str | None = None
    excuse: str | None = None

    @property
    def differs(self) -> bool:
        """Whether any two rows differ that the line compares; what is native to a model is shown for all of them."""
        if self.kind == "may-differ":
            return len({repr(value) for value in self.values.values()}) > 1
        return self.differs_within

    @property
    def differs_within(self) -> bool:
        """Whether two rows of one group differ."""
        return self._differs(self.groups)

    @property
    def differs_without_cause(self) -> bool:
        """Whether two rows of one group differ that agree in all settings which this line follows from."""
        return self.causes is not None and self._differs(self.groups, self.causes)

    def _differs(self, *keys: Mapping[str, Any] | None) -> bool:
        found: dict[Any, set[str]] = {}
        for name, value in self.values.items():
            group = tuple(None if key is None else key[name] for key in keys)
            found.setdefault(group, set()).add(repr(value))
        return any(len(values) > 1 for values in found.values())
