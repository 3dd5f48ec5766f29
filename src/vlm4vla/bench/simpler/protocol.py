"""The constants that decide scores, in one place and without the simulator. Together they are what the id stands for.

``DIGEST`` is the SHA-256 of everything that ``env.decides_scores`` lists; a test compares. Whoever changes one of these
after a release gives the benchmark a new ``ID``, and then writes down the digest that the test names.

Sources: simpler-env/ManiSkill2_real2sim ``envs/custom_scenes/put_on_in_scene.py`` @ 16a9ba9 (success rule, layouts,
robot), simpler-env/SimplerEnv ``scripts/octo_bridge.sh`` (limits, rates) and ``policies/*`` @ 5f12328 (actions, state).
"""

ID = "simpler-bridge-v1"
DIGEST = "2fdf034458e9a0c39625291be34c7db85e518e9306eedbf652e7529810c4a86f"

CAMERA = "3rd_view_camera"
HEIGHT, WIDTH = 480, 640  # pixels
CONTROL_HZ = 5.0  # 100 physics steps of 2 ms

STEPS, STEPS_IN_SINK = 60, 120
AT_END = "the source lies on the target after the last step; an episode runs to its limit"
EVER = "the source lies on the target after any step up to the limit; the episode ends there"

XY_MARGIN_M = 0.003  # added to half the diagonal of the target
IMPULSE = 1e-6  # N s; a contact below it is none
ABOVE_M, ABOVE_IN_SINK_M = 0.02, 0.06
"""How far above half the heights of both the source's middle may be over the target's."""

LATE_OPEN = 2
"""The variant ``late-gripper`` opens after as many commands to open in a row (VLM4VLA's ``late_close_gripper``)."""

GRIPPER_CLOSED_M, GRIPPER_OPEN_M = 0.015, 0.037  # each finger, of the proprioceptive state
AWAY = (-10.0, 0.0, 0.0)  # where the robot waits while the objects settle

EVAL_STARTS = 24
SEED_ENTROPY = 0x53494D50  # any constant
TABLE_HALF_M = (0.1, 0.1)  # of the box in which random objects lie, around TABLE_CENTRE
SINK_HALF_M = (0.02, 0.03)
UNLIKE_M, UNLIKE_RAD = 0.01, 0.26  # a random start differs by more from each published one
