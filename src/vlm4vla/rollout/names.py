"""Names that the runner and the simulator's worker share; the standard library only."""

BUILTIN = "builtin:"
"""Prefix of the policies that need no server."""
EXPERT, DO_NOTHING = f"{BUILTIN}expert", f"{BUILTIN}do-nothing"
BUILTINS = (EXPERT, DO_NOTHING)

IMAGE_BLANK, IMAGE_OTHER, IMAGE_SHUFFLED = "image-blank", "image-other", "image-shuffled"
CAMERA_MOVED = "camera-moved"
INSTRUCTION_SWAPPED, INSTRUCTION_PARAPHRASED = "instruction-swapped", "instruction-paraphrased"
CONTROLS = (IMAGE_BLANK, IMAGE_OTHER, IMAGE_SHUFFLED, CAMERA_MOVED, INSTRUCTION_SWAPPED, INSTRUCTION_PARAPHRASED)
"""Evaluation-only controls, explained in :mod:`vlm4vla.rollout.jobs`; the same as ``config.Control``."""

GRIPPER_SENSES = {"close_positive": -1.0, "close_negative": 1.0}
"""Ways to count a gripper's number in an address (``?gripper=NAME``): of this house's number, +1 open, times what."""
