"""Prompts as published: one file per family, written by hand from the published template, reviewed, never generated."""

from pathlib import Path

import pytest

from vlm4vla import registry
from vlm4vla.backbones import conformance, families

GOLDEN = Path(__file__).parents[1] / "golden" / "prompts"
INSTRUCTION = "open the drawer"
CASES = [(name, preset) for name in registry.names("backbones") for preset in conformance.tiny_presets(name)]


@pytest.mark.parametrize(("family", "preset"), CASES, ids=["-".join(case) for case in CASES])
def test_prompt_is_the_published_one(family: str, preset: str) -> None:
    processor = conformance.tiny(family, preset).processor
    lines = (GOLDEN / f"{family}.txt").read_text().splitlines()
    comments = [line for line in lines if line.startswith("# ")]
    assert any("source" in line.lower() for line in comments), "the file names the source of the template"
    (golden,) = [line for line in lines if not line.startswith("# ")]
    ids = processor.prepare(conformance.pictures(1), INSTRUCTION)["input_ids"].tolist()
    assert ids.pop() == processor.query_id, "the query is the last token"
    images = [i for i, ident in enumerate(ids) if ident == processor.image_id]
    assert images == list(range(images[0], images[-1] + 1)), "the image tokens are one run"
    before, after = (processor.tokenizer.decode(part) for part in (ids[: images[0]], ids[images[-1] + 1 :]))
    sentence = f"What action should the robotic arm take to {INSTRUCTION}"
    assert after.count(sentence) + before.count(sentence) == families.family(family).hears
    ours = f"{before}{{IMAGE}}{after}".replace(sentence, "{SENTENCE}").replace("\n", "\\n") + "{QUERY}"
    assert ours == golden


def test_every_golden_prompt_has_its_family() -> None:
    assert sorted(f.stem for f in GOLDEN.glob("*.txt")) == registry.names("backbones")
