"""The real Bridge sample beside what was published about bridge_orig.

Sources: q01 and q99 from ``configs/data/oxe_dataset_stats/dataset_statistics_bridge.json`` of CladernyJorn/VLM4VLA (the
gripper's 0 and 1 as well); mean of the gripper, minimum and maximum from the table ``bridge_orig`` of action statistics
as in ``tools/simplerenv-magma`` of microsoft/Magma (read in copies of it); first action zero from
``bridge_orig_dataset_transform`` in ``prismatic/vla/datasets/rlds/oxe/transforms.py`` of openvla/openvla. The sample is
octo-models/octo@241fb351, ``tests/debug_dataset``: 25 clips of 10 steps, mostly the approach, so orders of magnitude
are compared, not values.
"""

import numpy as np
import pytest
from samples import robot_data

from vlm4vla.data.formats import tfds
from vlm4vla.data.readers.rlds import ACTION, Reader

Q01 = np.array([-0.028727, -0.041703, -0.026094, -0.080921, -0.092887, -0.207183])
Q99 = np.array([0.028310, 0.040855, 0.040162, 0.081920, 0.077929, 0.203826])
MIN = np.array([-0.400751, -0.138748, -0.225539, -3.201079, -1.861811, -6.279076])
MAX = np.array([0.416912, 0.258648, 0.212182, 3.122202, 1.861811, 6.280478])


def root():
    return robot_data("octo_bridge_debug") / "bridge_dataset/1.0.0"


def actions(**options):
    reader = Reader(root(), variant="bridge", **options)
    return np.concatenate([reader.episode(n).actions for n in range(len(reader))]).astype(np.float64)


@pytest.mark.parametrize("relabel", [True, False])
def test_units_and_signs_are_those_of_the_published_quantiles(relabel):
    arm = actions(relabel=relabel)[:, :6]
    low, high = np.quantile(arm, 0.01, axis=0), np.quantile(arm, 0.99, axis=0)
    assert (low < 0).all() and (high > 0).all()
    for found, published in ((low, Q01), (high, Q99)):
        # millimetres, degrees or a swap of position and rotation would be factors of 10 and more
        assert (found / published > 1 / 8).all() and (found / published < 2.5).all()
    assert (arm > MIN).all() and (arm < MAX).all()


def test_the_reached_movement_goes_where_the_command_went():
    """Sign and frame: commands and reached differences of the same step correlate in each dimension."""
    reached, commanded = actions(), actions(relabel=False)
    commanded = np.concatenate([part[:-1] for part in np.split(commanded, 25)])
    for d in range(6):
        same = np.corrcoef(reached[:, d], commanded[:, d])[0, 1]
        later = np.corrcoef(reached.reshape(25, 8, 7)[:, :-1, d].ravel(), commanded.reshape(25, 8, 7)[:, 1:, d].ravel())
        assert same > 0.6 and same > later[0, 1]  # not shifted by a step


def test_one_opens_the_gripper():
    """Published: binary, 1 open in 58 % of the steps. What the gripper's width does next says which value opens."""
    reader = Reader(root(), variant="bridge")
    episodes = [reader.episode(n) for n in range(25)]
    gripper = np.concatenate([e.actions[:, 6] for e in episodes])
    assert set(gripper) == {-1, 1}
    assert 0.4 < (gripper == 1).mean() < 0.98  # clips of the approach: more open than 58 %
    command = np.concatenate([e.actions[:-1, 6] for e in episodes])
    growth = np.concatenate([np.diff(e.states[:, 6]) for e in episodes])
    assert growth[command == -1].max() < 0.01 and growth[command == -1].mean() < -0.05  # it closes
    assert np.abs(growth[command == 1]).mean() < 0.01  # it was open and stays so


def test_the_first_recorded_action_is_zero():
    folder = tfds.Folder(root(), "train")
    for n in range(len(folder)):
        recorded = tfds.numbers(folder.example(n), folder.features[ACTION])
        assert np.abs(recorded[0, :6]).max() < 1e-6 < np.abs(recorded[1:, :6]).max()
