import json

import numpy as np
import pytest
from PIL import Image
from synthetic_data import dataset

from vlm4vla.data import inspect
from vlm4vla.data.build import build
from vlm4vla.types import UserError


def test_numbers_and_contact_sheet(tmp_path):
    store = build(dataset(tmp_path / "set", (5, 1, 9, 20)), tmp_path / "store", 8, "png")
    found = json.loads(json.dumps(inspect.info(store)))
    assert found["episodes"] == 4 and found["frames"] == 35 and found["length"] == {"min": 1, "median": 7.0, "max": 20}
    assert found["tasks"]["task-0"] == {"episodes": 2, "frames": 25, "instructions": ["do thing 0"]}
    assert found["cameras"] == {"front": [8, 8], "wrist": [8, 8]} and found["digest"] == store.digest
    numbers = inspect.stats(store)["actions"]
    assert list(numbers) == ["d0", "d1", "d2", "gripper"] and numbers["gripper"]["max"] == 1
    assert numbers["d1"]["q01"] == pytest.approx(store.statistics().q01[1]) and numbers["d1"]["high"] == 2
    for episode in (1, 3):  # one frame; more frames than tiles
        inspect.show(store, episode, tmp_path / "out" / f"{episode}.png")
        with Image.open(tmp_path / "out" / f"{episode}.png") as sheet:
            assert sheet.width > 100 and len(np.unique(np.asarray(sheet.convert("RGB")))) > 100
    with pytest.raises(UserError, match="0 to 3"):
        inspect.show(store, 4, tmp_path / "x.png")
