"""What was printed of a study, with its rows read without this software's help."""

import csv
import json
from dataclasses import dataclass
from pathlib import Path

from vlm4vla.report.paper.write import Paper


@dataclass(frozen=True)
class Written:
    study: Path
    paper: Paper

    @property
    def out(self) -> Path:
        return self.study / "report" / "paper"

    def csv(self, name: str) -> list[dict[str, str]]:
        with (self.out / f"{name}.csv").open(newline="") as f:
            return list(csv.DictReader(f))

    def text(self, name: str, ending: str) -> str:
        return (self.out / f"{name}.{ending}").read_text()

    def rows(self, recipe: str, task: str | None = None) -> list[list[dict[str, object]]]:
        """Rows of each training run of a recipe."""
        arms = [a for a in json.loads((self.study / "study.json").read_text())["arms"] if a["recipe"] == recipe]
        lines = [(self.study / a["eval"] / "rows.jsonl").read_text().splitlines() for a in arms]
        found = [[json.loads(line) for line in own] for own in lines]
        return [[r for r in own if task in (None, r["task"])] for own in found]

    def rate(self, recipe: str, task: str | None = None) -> float:
        own = [bool(r["success"]) for run in self.rows(recipe, task) for r in run]
        return sum(own) / len(own)

    @property
    def recipes(self) -> list[str]:
        return list(dict.fromkeys(a["recipe"] for a in json.loads((self.study / "study.json").read_text())["arms"]))
