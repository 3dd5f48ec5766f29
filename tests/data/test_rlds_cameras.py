"""A camera of RLDS data under the name that a simulator gives it."""

from pathlib import Path

import numpy as np
import pytest
import tfds_files as made

from vlm4vla.data.readers.rlds import Reader
from vlm4vla.types import UserError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    records = [made.record(n, 4 + n, made.BRIDGE) for n in range(2)]
    made.write(tmp_path, [records], made.layout(made.BRIDGE), "bridge_dataset")
    return tmp_path


def test_a_camera_is_renamed_and_its_pictures_are_the_same(folder: Path) -> None:
    plain = Reader(folder, variant="bridge", cameras="image_1,image_0")
    renamed = Reader(folder, variant="bridge", cameras="image_1, image_0 = side")
    assert [c.name for c in renamed.cameras] == ["image_1", "side"]
    for number in range(2):
        a, b = plain.episode(number), renamed.episode(number)
        assert np.array_equal(np.stack(list(a.images["image_0"])), np.stack(list(b.images["side"])))


@pytest.mark.parametrize(
    ("cameras", "expected"),
    [("image_0=a,image_1=a", "one name"), ("image_0=", "one none"), ("image_9=a", "no camera 'image_9'")],
)
def test_names_that_cannot_be_given_are_refused(folder: Path, cameras: str, expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        Reader(folder, variant="bridge", cameras=cameras)
