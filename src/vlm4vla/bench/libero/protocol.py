"""The constants that decide scores, in one place and without the simulator. Together they are what the id stands for.

``DIGEST`` is the SHA-256 of everything that ``env.decides_scores`` lists; a test compares. Whoever changes one of these
after a release gives the benchmark a new ``ID``, and then writes down the digest that the test names.

Sources: openvla ``experiments/robot/libero/run_libero_eval.py`` @ 7ea2742 and ``libero_utils.py`` @ c8f03f4,
openvla-oft @ 213c5ff, openpi ``examples/libero/main.py`` @ 15a9616, which agree on steps, settling, cameras and turn.
"""

ID = "libero-v1"
DIGEST = "b909e990b7cb2620122fa6fa795ef27f6749aa2e2a954c3addd19a9d311238d9"

PICTURE = 256  # pixels, height and width
CAMERAS = {"agentview": "agentview", "eye_in_hand": "robot0_eye_in_hand"}  # ours -> the simulator's
HALF_TURN = True  # pictures are given as every published recipe gives them: [::-1, ::-1] of what OpenGL reads back
MULTISAMPLES = 4
CONTROL_HZ = 20.0  # 25 physics steps of 2 ms

STEP_LIMITS = {"libero_10": 520, "libero_goal": 300, "libero_object": 280, "libero_spatial": 220, "libero_90": 400}
SUCCESS_RULE = "the goal of the task's BDDL file holds after any step up to the step limit"

SETTLE_STEPS = 10  # no motion, gripper open, before the policy is asked for the first time; not counted as steps
SETTLE_UP_M = 0.05  # no object may be higher by more when it has settled; under other versions of mujoco some are
SETTLE_SIDEWAYS_M = 0.5  # nor farther away sideways: what topples over comes to rest nearer (README)
PLACEMENT_M = 0.05  # a random placement in which one moves farther sideways while it settles is drawn again
PLACEMENTS_TRIED = 20  # of a random start, until one settles and does not solve the task by itself

EVAL_STARTS = 50  # the initial states that come with the benchmark
EVAL_SEED = 0  # of the fixtures, which are no part of an initial state
SEED_ENTROPY = 0x6C696265  # any constant

OPEN, CLOSE = -1.0, 1.0
"""The simulator's gripper number for the house's +1 and -1: above 0 opens, else closes."""
