"""What the robot is told in each of the 50 tasks, and which goals get a marker. Part of the benchmark's version."""

INSTRUCTIONS: dict[str, str] = {
    "assembly": "put the ring on the peg",
    "basketball": "put the ball in the basket",
    "bin-picking": "move the block to the blue bin",
    "box-close": "put the lid on the box",
    "button-press": "press the button on the front of the box",
    "button-press-topdown": "press the button on the top of the box",
    "button-press-topdown-wall": "reach over the wall and press the button on the top of the box",
    "button-press-wall": "reach over the wall and press the button on the front of the box",
    "coffee-button": "press the button of the coffee machine",
    "coffee-pull": "pull the mug away from the coffee machine to the green mark",
    "coffee-push": "push the mug under the coffee machine",
    "dial-turn": "turn the dial",
    "disassemble": "take the ring off the peg",
    "door-close": "close the door",
    "door-lock": "lock the door",
    "door-open": "open the door",
    "door-unlock": "unlock the door",
    "drawer-close": "close the drawer",
    "drawer-open": "open the drawer",
    "faucet-close": "close the faucet",
    "faucet-open": "open the faucet",
    "hammer": "hit the nail with the hammer",
    "hand-insert": "put the block in the hole at the blue mark",
    "handle-press": "press the handle down",
    "handle-press-side": "press the handle on the side down",
    "handle-pull": "pull the handle up",
    "handle-pull-side": "pull the handle on the side up",
    "lever-pull": "pull the lever up",
    "peg-insert-side": "put the peg in the hole",
    "peg-unplug-side": "pull the peg out of the hole",
    "pick-out-of-hole": "pick the block out of the hole and lift it to the blue mark",
    "pick-place": "pick up the block and bring it to the blue mark",
    "pick-place-wall": "pick up the block and bring it over the wall to the blue mark",
    "plate-slide": "slide the puck into the goal",
    "plate-slide-back": "slide the puck out of the goal to the red mark",
    "plate-slide-back-side": "slide the puck sideways out of the goal to the red mark",
    "plate-slide-side": "slide the puck sideways into the goal",
    "push": "push the block to the green mark",
    "push-back": "pull the block back to the green mark",
    "push-wall": "push the block around the wall to the green mark",
    "reach": "reach for the red mark",
    "reach-wall": "reach over the wall for the red mark",
    "shelf-place": "put the block on the shelf",
    "soccer": "push the ball into the goal",
    "stick-pull": "pull the thermos with the stick to the green mark",
    "stick-push": "push the thermos with the stick",
    "sweep": "sweep the block off the table",
    "sweep-into": "sweep the block into the hole",
    "window-close": "slide the window closed",
    "window-open": "slide the window open",
}

MARKERS: dict[str, str] = {
    "coffee-pull": "mug_goal",
    "hand-insert": "goal",
    "pick-out-of-hole": "goal",
    "pick-place": "goal",
    "pick-place-wall": "goal",
    "plate-slide-back": "goal",
    "plate-slide-back-side": "goal",
    "push": "goal",
    "push-back": "goal",
    "push-wall": "goal",
    "reach": "goal",
    "reach-wall": "goal",
    "stick-pull": "goal",
}
"""Task -> the one MuJoCo site that stays visible.

The simulator draws its sites (goal balls, helper points) into every picture. They are hidden, so that in pairs with
the same scene (faucet-open and faucet-close) the instruction alone tells what to do. The tasks listed here are the
exception: their goal is drawn at random at each start, by more than the success radius, and no object of the scene
shows where it is (in the two plate-slide-back tasks the net stays where the puck starts); without the marker
nobody could solve them from pictures.
"""
