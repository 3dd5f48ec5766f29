"""The constants that decide scores, in one place and without the simulator. Together they are what the id stands for.

``DIGEST`` is the SHA-256 of everything that ``env.decides_scores`` lists; a test compares. Whoever changes one of these
after a release gives the benchmark a new ``ID``, and then writes down the digest that the test names.
"""

ID = "calvin-abc-d-v1"
DIGEST = "747cb3beb50253779a6bab0069ee301fddb8d1c7c85a543cc3475a2cd52533f5"

PHYSICS_HZ, CONTROL_HZ = 240, 30
POSITION_UNIT, ANGLE_UNIT = 0.02, 0.05  # metres and radians of one unit of an action
SUBTASKS = 5
SUBTASK_STEPS = 360
QUICK_STATES = 16  # of the 192 initial states, in the task chain_quick
SUCCESS_RULE = (
    "the official rule of the task holds after a step, against the moment the task began; in a chain, of all five "
    "tasks one after the other, 360 steps each, without a reset"
)
SEED_ENTROPY = 0x63616C76  # any constant

# Cameras of calvin_env @797142c, conf/cameras. The near plane of the static one is 2.0 instead of 0.01: Mesa gives
# a depth buffer of 16 bits, with which the whole scene has 72 depths (README, "Pictures").
STATIC, STATIC_PICTURE, STATIC_FIELD_OF_VIEW, STATIC_NEAR, STATIC_FAR = "static", 200, 10.0, 2.0, 10.0
LOOK_FROM = (2.871459009488717, -2.166602199425597, 2.555159848480571)
LOOK_AT = (-0.026242351159453392, -0.0302329882979393, 0.3920000493526459)
UP = (0.4041403970338857, 0.22629790978217404, 0.8862616969685161)
GRIPPER, GRIPPER_PICTURE, GRIPPER_FIELD_OF_VIEW, GRIPPER_NEAR, GRIPPER_FAR = "gripper", 84, 75.0, 0.01, 2.0
