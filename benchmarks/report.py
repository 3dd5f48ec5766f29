"""The report of a big study: seconds to build, bytes, and time to open, against what cannot be saved.

    python benchmarks/report.py [--study FOLDER] [--recipes 20] [--seeds 10] [--videos] [--rounds 3]

Without ``--study`` one is made up: 200 cells of 50 rows. ``floor`` reads and validates all JSON lines of the study
through the same records and does nothing else: no report that believes its files is faster. ``paper`` is the part of
the build that makes tables and figures for print. Rounds take turns; medians of wall seconds and of processor seconds
of this process, since on a shared machine the first say more about the neighbours. With playwright and Chromium the
page is opened too, in turns with an empty page: milliseconds until the document is ready and until it is loaded.
"""

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "report"))
from big_study import make_big_study  # the tests' own made-up study

from vlm4vla.records import Comparison, EpisodeRow, Estimate, RunRecord, read_all, read_one
from vlm4vla.report import folder
from vlm4vla.report.build import build
from vlm4vla.report.folder import Metric, StudyFile
from vlm4vla.report.paper import write as paper

ARGUMENTS = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]


def floor(study: Path) -> int:
    """Lines of JSON that were read and validated."""
    count = len(read_all(study / "estimates.jsonl", Estimate)) + len(read_all(study / "comparisons.jsonl", Comparison))
    file = StudyFile.model_validate_json((study / "study.json").read_bytes())
    for entry in [*file.references, *file.arms]:
        read_one(study / entry.eval / "run.json", RunRecord)
        count += len(read_all(study / entry.eval / "rows.jsonl", EpisodeRow))
    for arm in file.arms:
        if arm.run is not None:
            read_one(study / arm.run / "run.json", RunRecord)
            count += len(read_all(study / arm.run / "metrics.jsonl", Metric))
    return count


def timed(run: Callable[[], object]) -> tuple[float, float]:
    wall, processor = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - wall, time.process_time() - processor


def opened(page: Path, rounds: int) -> dict[str, list[float]]:
    """Milliseconds until DOMContentLoaded and until load: of the page and of an empty one."""
    from playwright.sync_api import sync_playwright

    empty = page.with_name("empty.html")
    empty.write_text("<!doctype html><title>empty</title>")
    found: dict[str, list[float]] = {}
    with sync_playwright() as runner:
        browser = runner.chromium.launch(executable_path=shutil.which("chromium"), args=ARGUMENTS, timeout=120_000)
        for _ in range(rounds):
            for name, path in (("empty page", empty), ("report", page)):
                tab = browser.new_page()
                tab.set_default_timeout(300_000)
                tab.goto(path.as_uri(), wait_until="load")
                ready, loaded = tab.evaluate(
                    "(() => { const t = performance.getEntriesByType('navigation')[0];"
                    " return [t.domContentLoadedEventEnd, t.loadEventEnd]; })()"
                )
                found.setdefault(f"{name}, ready", []).append(ready)
                found.setdefault(f"{name}, loaded", []).append(loaded)
                tab.close()
        browser.close()
    empty.unlink()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", type=Path)
    parser.add_argument("--recipes", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--videos", action="store_true")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        study = given.study or make_big_study(
            Path(made) / "study", recipes_=given.recipes, seeds=given.seeds, videos=given.videos
        )
        out = Path(made) / "report"
        records = folder.load(study)
        ways = {
            "floor": lambda: floor(study),
            "build": lambda: build(study, out),
            "paper": lambda: paper.write(records, study, out / "again"),
        }
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
        build(study, out)  # fills caches of files and fonts
        for _ in range(given.rounds):
            for name, run in ways.items():
                times[name].append(timed(run))
        medians = {name: [statistics.median(t[k] for t in found) for k in (0, 1)] for name, found in times.items()}
        page = out / "index.html"
        result = {
            "cells": len(records.file.arms),
            "rows": sum(len(row.rows) for row in records.table),
            "comparisons": len(records.comparisons),
            "lines_read": floor(study),
            "wall_s": {name: round(m[0], 2) for name, m in medians.items()},
            "processor_s": {name: round(m[1], 2) for name, m in medians.items()},
            "page_bytes": page.stat().st_size,
            "load_average": [round(x, 1) for x in os.getloadavg()],
        }
        try:
            shown = opened(page, given.rounds) if shutil.which("chromium") else {}
        except ImportError:
            shown = {}
        result["open_ms"] = {name: round(statistics.median(values)) for name, values in shown.items()}
        print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
