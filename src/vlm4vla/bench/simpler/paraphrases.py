"""Every task in other words, for the control ``instruction-paraphrased``: written by us, same things, same meaning.

No part of the benchmark's version: nothing without that control depends on it.
"""

PARAPHRASES = {
    "put-spoon-on-towel": "place the spoon onto the towel",
    "put-carrot-on-plate": "place the carrot onto the plate",
    "stack-green-on-yellow": "set the green block on top of the yellow block",
    "put-eggplant-in-basket": "place the eggplant in the yellow basket",
}
