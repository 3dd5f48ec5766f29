"""Every task in other words, for the control ``instruction-paraphrased``, by a rule of ours: same things, same meaning.

Verbs and a preposition are replaced by the list below, from top to bottom; all other words stay, the names of things,
their colours and places among them. No part of the benchmark's version: nothing without that control depends on it.
"""

import re

OTHER_WORDS = (
    ("pick up", "grasp"),
    ("place it", "set it down"),
    ("place them", "set them down"),
    ("put", "set"),
    ("turn on", "switch on"),
    ("turn off", "switch off"),
    ("open", "pull open"),
    ("close", "shut"),
    ("push", "slide"),
    ("stack", "pile"),
    ("next to", "beside"),
)


def paraphrase(sentence: str) -> str:
    """An instruction of the benchmark in other words."""
    for words, other in OTHER_WORDS:
        sentence = re.sub(rf"\b{words}\b", other, sentence)
    return sentence
