"""Studies for print, each written once for all tests."""

from collections.abc import Callable

import pytest
from print_study import make, tried
from print_written import Written

from vlm4vla.report import folder
from vlm4vla.report.paper.write import write


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Written]:
    """``written(name, **settings)``: the study's folder, made and printed on first use."""
    known: dict[str, Written] = {}

    def get(name: str) -> Written:
        if name not in known:
            where = make(tmp_path_factory.mktemp(name), **STUDIES[name])
            known[name] = Written(where, write(folder.load(where), where, where / "report"))
        return known[name]

    return get


STUDIES: dict[str, dict[str, object]] = {
    "main": {"grid": True, "tried": tried(), "equivalence": 0.2},
    "freezing": {"freezing": True, "labels": ("Qwen3-VL", "PaliGemma"), "starts": 10},
    "chains": {"chains": True, "starts": 60, "equivalence": 0.3},
    "single": {"seeds": 1},
}
