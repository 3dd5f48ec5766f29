"""ActionSpec and the four-part error."""

import json

import numpy as np
import pytest

from vlm4vla.types import ActionSpec, Dimension, UserError, refuse

SPEC = ActionSpec(
    (Dimension("dx", "m", "delta", "world", -1, 1), Dimension("grip", "", "gripper", "gripper", -1, 1)), "none", 20.0
)


def test_spec_there_and_back() -> None:
    assert ActionSpec.from_dict(SPEC.to_dict()) == SPEC
    assert (SPEC.arm, SPEC.gripper, SPEC.size) == ((0,), (1,), 2)


def test_differences_name_what_differs() -> None:
    other = ActionSpec((Dimension("dx", "cm", "delta", "world", -1, 1), SPEC.dimensions[1]), "none", 5.0)
    found = SPEC.differences(other)
    assert len(found) == 2 and "'cm'" in found[0] and "20.0 Hz against 5.0 Hz" in found[1]
    assert SPEC.differences(SPEC) == []


@pytest.mark.parametrize("action", [[0.0], [2.0, 1.0], [np.nan, 0.0], [0.0, np.inf], [[0.0, 0.0]]])
def test_bad_actions_are_refused(action: list[float]) -> None:
    with pytest.raises(UserError, match="Possible"):
        SPEC.check(action)


def test_four_parts() -> None:
    text = str(refuse("Unknown x 'abd'", given="abd", possible=["abc", "xyz"], todo="Choose one."))
    assert text == "Unknown x 'abd'. Possible: abc, xyz. Did you mean 'abc'? Choose one."


def test_a_spec_without_limits_is_plain_json() -> None:
    spec = ActionSpec((Dimension("dx", "m", "delta", "base", -np.inf, np.inf),), "none", 5)
    text = json.dumps(spec.to_dict(), allow_nan=False)
    assert ActionSpec.from_dict(json.loads(text)) == spec
