"""CALVIN's action rule against recordings of the original environment.

Sources: recordings ``calvin_golden`` of mees/calvin_env @797142c (its ``robot_obs`` after each relative action); units,
frame and gripper sense from ``dataset/README.md`` of mees/calvin ("in relative world coordinates ... scaling factor
50", "... scaling factor 20", "close = -1, open = 1"); the rule itself from ``to_relative_action`` in
``calvin_env/utils/utils.py`` and ``worker_run`` in ``calvin_env/datarenderer.py`` ("action is robot state of next
frame"). The recordings hold states and commands, no frames: the published frames are not here, so a data set is written
from the recorded states by our writer, with noise for pictures.
"""

from pathlib import Path

import numpy as np
import pytest
from calvin_data import recording

from vlm4vla.data.formats.calvin_rule import METRES, RADIANS, broken_relative, broken_targets, reached, relative_actions
from vlm4vla.data.readers.calvin import Reader
from vlm4vla.data.writers.calvin import Writer

EXPERT = ("lift_red_block_table", "move_slider_left", "open_drawer", "turn_off_led", "turn_on_led")
RANDOM = tuple(f"{scene}_{n}" for scene in "ABCD" for n in range(2))


def golden(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Relative commands (T, 7) and states (T + 1, 15), the first before any action."""
    file = Path(__file__).parents[2].parent / f"shared/assets/calvin_golden/calvin_{name}.npz"
    if not file.is_file():
        pytest.skip(f"the recording {file.name} is not in shared/assets/calvin_golden beside the checkout")
    with np.load(file, allow_pickle=False) as arrays:
        return arrays["actions"], np.vstack([arrays["robot_obs_init"], arrays["robot_obs"]])


@pytest.mark.parametrize("task", EXPERT)
def test_units_and_frame_are_those_of_the_original_environment(task):
    """Commands summed in 0.02 m and 0.05 rad along the world's axes are where the arm goes, but for its lag."""
    commands, states = golden(f"D_{task}")
    position = states[0, :3] + METRES * commands[:, :3].cumsum(0)
    angle = states[0, 3:6] + RADIANS * commands[:, 3:6].cumsum(0)
    assert np.abs(states[1:, :3] - position).max() < 0.025
    assert np.abs((states[1:, 3:6] - angle + np.pi) % (2 * np.pi) - np.pi).max() < 0.035
    assert np.abs(states[-1, :3] - states[0, :3]).max() > 0.05  # it did move
    # The rule on measured states gives the commands back, smoothed and late, in the same units.
    measured = relative_actions(reached(states), states[:-1])
    window = np.ones(8)
    for axis in range(3):
        told = np.convolve(commands[:-1, axis], window, "valid")
        done = np.convolve(measured[1:, axis], window, "valid")
        assert np.corrcoef(told, done)[0, 1] > 0.95
        assert 0.85 < (told @ done) / (told @ told) < 1.1


@pytest.mark.parametrize("name", [f"D_{task}" for task in EXPERT] + list(RANDOM))
def test_the_state_holds_the_gripper_command_before_it(name):
    commands, states = golden(name)
    assert states[0, 14] == 1 and np.array_equal(states[1:, 14], commands[:, 6])


def test_the_gripper_opens_at_plus_one():
    """After four equal commands; the random recordings do not tell, their arms run into the table."""
    opened, closed = [], []
    for task in EXPERT:
        commands, states = golden(f"D_{task}")
        for t in range(3, len(commands)):
            if np.ptp(commands[t - 3 : t + 1, 6]) == 0:
                (opened if commands[t, 6] == 1 else closed).append(states[t + 1, 6])
    assert len(opened) > 40 and min(opened) > 0.079  # metres; fully open is 0.08
    assert len(closed) > 100 and max(closed) < 0.06  # a block is 0.055 wide


@pytest.mark.parametrize("name", [f"D_{task}" for task in EXPERT] + list(RANDOM))
def test_relative_actions_follow_from_recorded_states(tmp_path, name):
    """Written as CALVIN's renderer writes a recording, and read back: the stored numbers are those of the rule."""
    _, states = golden(name)
    states = states[:41]
    out = Writer(tmp_path, section={})
    out.stage("0", recording(0, len(states) - 1, states=states))
    out.finish()
    reader = Reader(tmp_path)
    vectors = reader.vectors(0)
    assert broken_relative(vectors["rel_actions"], vectors["actions"], vectors["robot_obs"]) == []
    assert broken_targets(vectors["actions"], vectors["robot_obs"]) == []
    step = np.diff(states[:, :3], axis=0)
    inside = np.abs(step) < METRES
    read = reader.episode(0).actions
    assert np.allclose((read[:, :3] * METRES)[inside], step[inside], atol=1e-7) and inside.mean() > 0.5
    assert np.array_equal(read[:, 6], states[1:, 14].astype(np.float32))
