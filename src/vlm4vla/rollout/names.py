"""Names that the runner and the simulator's worker share; the standard library only."""

BUILTIN = "builtin:"
"""Prefix of the policies that need no server."""
EXPERT, DO_NOTHING = f"{BUILTIN}expert", f"{BUILTIN}do-nothing"
BUILTINS = (EXPERT, DO_NOTHING)

IMAGE_BLANK, IMAGE_OTHER, INSTRUCTION_SWAPPED = "image-blank", "image-other", "instruction-swapped"
CONTROLS = (IMAGE_BLANK, IMAGE_OTHER, INSTRUCTION_SWAPPED)
"""Evaluation-only controls, explained in :mod:`vlm4vla.rollout.jobs`; the same as ``config.Control``."""
