"""Every task in other words: really other ones, about the same things, and no other task's."""

import re
from collections.abc import Sequence
from typing import Any

import pytest

from vlm4vla.bench.calvin.env import Benchmark as Calvin
from vlm4vla.bench.calvin.language import THINGS, paraphrases
from vlm4vla.bench.libero.env import Benchmark as Libero
from vlm4vla.bench.libero.paraphrases import OTHER_WORDS
from vlm4vla.bench.libero.tasks import SUITE_OF
from vlm4vla.bench.metaworld.env import Benchmark as MetaWorld
from vlm4vla.bench.simpler.env import Benchmark as Simpler
from vlm4vla.types import UserError

# What may be replaced: verbs, prepositions and adverbs that belong to them. Every other word of an instruction stays.
VERBS = "put move press reach pull push turn take close lock open unlock hit pick bring slide stack sweep lift place"
SMALL = "the a and on in of to up down over away under off with at out around for it into next them closed"
REPLACEABLE = {*VERBS.split(), *SMALL.split()}
CALVINS_VERBS = "take rotate go push pull open close grasp grasped lift store slide falls stack stacked remove use"
CALVINS_SMALL = "turn press the and it to from in into that side"


def words(sentence: str) -> list[str]:
    return re.findall(r"\w+", sentence)


def pairs(bench: Any, tasks: Sequence[str]) -> dict[str, tuple[str, str]]:
    return {task: (bench.instruction(task), bench.paraphrase(task)) for task in tasks}


@pytest.fixture(params=["metaworld", "libero", "simpler"])
def told(request: pytest.FixtureRequest) -> dict[str, tuple[str, str]]:
    bench: Any = {"metaworld": MetaWorld, "libero": Libero, "simpler": Simpler}[request.param]()
    return pairs(bench, sorted(SUITE_OF) if request.param == "libero" else bench.tasks())


def test_a_paraphrase_differs_and_is_no_other_tasks(told: dict[str, tuple[str, str]]) -> None:
    instructions = {own for own, _ in told.values()}
    for task, (_, other) in told.items():
        assert other not in instructions, f"{task}: {other}"
    # Two tasks are told alike in other words only where they are told alike anyway.
    assert len({other for _, other in told.values()}) == len(instructions)


def test_a_paraphrase_keeps_every_word_that_names_a_thing(told: dict[str, tuple[str, str]]) -> None:
    for task, (own, other) in told.items():
        lost = set(words(own)) - REPLACEABLE - set(words(other))
        assert not lost, f"{task}: {other!r} lacks {lost}"


def test_the_rule_of_four_suites_replaces_no_name_of_a_thing() -> None:
    assert {word for before, _ in OTHER_WORDS for word in words(before)} <= REPLACEABLE


def test_calvins_other_words_are_official_ones_about_the_same_things() -> None:
    try:
        official = paraphrases()
    except UserError:
        pytest.skip("the published files of calvin are missing")
    bench = Calvin()
    single = [task for task in bench.tasks() if task not in bench.chains]
    told = pairs(bench, single)
    assert len(single) == 34 == len({other for _, other in told.values()})
    instructions = {own for own, _ in told.values()}
    for task, (own, other) in told.items():
        assert other in official[task] and other not in instructions
        assert THINGS & set(words(own)) <= set(words(other)), task
        # Whatever else an instruction has is a verb or a small word: no thing is missing among THINGS.
        assert not set(words(own.lower())) - THINGS - {*CALVINS_VERBS.split(), *CALVINS_SMALL.split()}, own
    with pytest.raises(UserError, match="in a row"):
        bench.paraphrase(bench.chains[0])
