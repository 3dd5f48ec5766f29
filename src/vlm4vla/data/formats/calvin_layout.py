"""CALVIN's layout on disk and the meaning of its numbers, shared by its reader and its writer.

    ROOT/{training,validation}/episode_0000000.npz     one frame per file, seven digits
                               ep_start_end_ids.npy    (E, 2) first and last frame of each recording
                               ep_lens.npy             (E,) frames of each recording
                               scene_info.npy          {"calvin_scene_A": [first, last], ...}; a pickle; may be absent
                               statistics.yaml
                               lang_annotations/auto_lang_ann.npy
                                   a pickle: {"language": {"ann": sentences, "task": names, "emb": (N, 1, 384)},
                                              "info": {"indx": [(first, last), ...], "episodes": []}}

Sources: ``dataset/README.md`` and ``calvin_models/calvin_agent`` of mees/calvin, ``calvin_env/datarenderer.py`` of
mees/calvin_env. The README says float32 for vectors, published files have float64: both are read.
"""

from pathlib import Path

from vlm4vla.types import ActionSpec, CameraSpec, Dimension

SPLITS = ("training", "validation")
FRAME = "episode_{:07d}.npz"
FRAMES = 10**7  # what seven digits can count
ANNOTATIONS = "lang_annotations/auto_lang_ann.npy"
RECORDINGS = "ep_start_end_ids.npy"
LENGTHS = "ep_lens.npy"
SCENES = "scene_info.npy"
SCENE = "calvin_scene_"  # before a scene's letter
STATISTICS = "statistics.yaml"
CONTROL_HZ = 30.0

STATE = "robot_obs"
STATE_NAMES = (
    *(f"tcp_{axis}_m" for axis in "xyz"),
    *(f"tcp_euler_{axis}_rad" for axis in "xyz"),
    "gripper_width_m",
    *(f"joint_{i}_rad" for i in range(7)),
    "gripper_action",
)
SCENE_STATE = "scene_obs"
SCENE_SIZE = 24
ACTION_SIZE = 7
FLOATS = ("float64", "float32")
CAMERAS = {"static": CameraSpec("static", 200, 200), "gripper": CameraSpec("gripper", 84, 84)}
PICTURE = "rgb_"  # before a camera's name

_GRIPPER = Dimension("gripper", "+1 open, -1 close", "gripper", "gripper", -1.0, 1.0)
# The arm's base stands at (-0.34, -0.46, 0.24) m in every scene and reaches 0.855 m: no target lies beyond 1.5 m.
_REACH = 1.5
# The bound of an angle, pi rounded up: float32's pi is larger than pi.
_TURN = 3.1416
ACTIONS = {
    "relative": "rel_actions",
    "absolute": "actions",
}
SPECS = {
    "relative": ActionSpec(
        (
            *(Dimension(f"d{axis}", "0.02 m", "delta", "world", -1.0, 1.0) for axis in "xyz"),
            *(Dimension(f"deuler_{axis}", "0.05 rad", "delta", "world", -1.0, 1.0) for axis in "xyz"),
            _GRIPPER,
        ),
        "euler_xyz",
        CONTROL_HZ,
    ),
    "absolute": ActionSpec(
        (
            *(Dimension(axis, "m", "absolute", "world", -_REACH, _REACH) for axis in "xyz"),
            *(Dimension(f"euler_{axis}", "rad", "absolute", "world", -_TURN, _TURN) for axis in "xyz"),
            _GRIPPER,
        ),
        "euler_xyz",
        CONTROL_HZ,
    ),
}


def picture_shape(camera: str) -> tuple[int, int, int]:
    return CAMERAS[camera].height, CAMERAS[camera].width, 3


def frame_file(folder: Path, frame: int) -> Path:
    return folder / FRAME.format(frame)
