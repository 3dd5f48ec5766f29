"""The probe is small and deaf."""

import subprocess
import sys
from pathlib import Path

import pytest

from vlm4vla.backbones import conformance, loading
from vlm4vla.types import UserError


@pytest.mark.parametrize("preset", ["tiny", "224"])
def test_it_is_below_two_million_parameters_and_never_sees_the_sentence(preset: str) -> None:
    backbone = conformance.tiny("wordless", preset)
    assert sum(p.numel() for p in backbone.parameters()) < 2_000_000
    image = conformance.pictures(1, backbone.config.image_size)
    ids = [backbone.processor.prepare(image, s)["input_ids"].tolist() for s in ("open it", "close the red drawer now")]
    assert ids[0] == ids[1] and set(ids[0]) == {backbone.processor.image_id, backbone.processor.query_id}


def test_a_size_that_its_grid_does_not_divide_is_refused() -> None:
    config = conformance.tiny("wordless").config
    with pytest.raises(UserError, match=r"multiples of 96.*image_size to 192"):
        loading.load(config.model_copy(update={"image_size": 200}), 1, seed=0)
    assert loading.load(config.model_copy(update={"image_size": 192}), 1, seed=0).processor.image_tokens() == 144


def test_a_process_that_never_heard_of_it_reads_its_folder(tmp_path: Path) -> None:
    backbone = conformance.tiny("wordless")
    backbone.model_config.save_pretrained(tmp_path)
    backbone.processor.tokenizer.save_pretrained(tmp_path)
    words = [str(Path(sys.executable).parent / "vlm4vla"), "inspect", str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0 and "36 image tokens of 37" in done.stdout, done.stderr
