"""The constants that decide scores, in one place and without the simulator. Together they are what the id stands for.

``DIGEST`` is the SHA-256 of everything that ``env.decides_scores`` lists; a test compares. Whoever changes one of these
after a release gives the benchmark a new ``ID``, and then writes down the digest that the test names.
"""

ID = "metaworld-v1"
DIGEST = "0d7945eb347b5fb2d17585c04fab214b6e914f7dc4c0355ce9c392bacff4661e"

PICTURE = 96  # pixels, height and width
CONTROL_HZ = 80.0  # 5 physics steps of 2.5 ms
STEP_LIMIT = 250
SUCCESS_RULE = 'MetaWorld\'s own info["success"] is true after any step up to the step limit'
SEED_ENTROPY = 0x6D657461  # any constant

# MetaWorld's corner2, moved closer, turned to the middle of the tasks and zoomed: every position that hand or objects
# take in the expert's episodes of all 50 tasks lies within the picture, with a margin (README, "Camera").
CAMERA = "corner2"
CAMERA_POSITION = (0.75, 0.075, 0.7)
CAMERA_QUATERNION = (-0.3704, 0.1970, -0.4440, 0.7917)
CAMERA_FIELD_OF_VIEW = 42.0  # degrees, vertical

MULTISAMPLES = 0
RENDER_FLAGS_OFF = ("mjRND_SHADOW", "mjRND_REFLECTION")

OPEN, CLOSE = -1.0, 0.5
"""MetaWorld's gripper effort for the house's +1 and -1. Its sense is the opposite, and full closing force (1.0)
squeezes the things of several tasks out of the fingers: README.md, "Gripper", has the measured success of other pairs.
"""
