"""Training-time changes of pictures."""

import numpy as np

from vlm4vla.types import Image


def random_shift(image: Image, pad: int, generator: np.random.Generator) -> Image:
    """DrQ's random shift: pad by ``pad`` pixels of replicated edge, cut an (H, W, 3) window at offset 0..2*pad.

    Source: Kostrikov et al., Image Augmentation Is All You Need (2020). Both offsets are uniform integers; the middle
    one (``pad``, ``pad``) gives the picture itself. Always a new array.
    """
    height, width = image.shape[:2]
    down, right = generator.integers(0, 2 * pad + 1, size=2)
    # Clamped indices are the padding and the cut in one; two takes are several times as fast as np.pad.
    rows = np.clip(np.arange(height) + down - pad, 0, height - 1)
    columns = np.clip(np.arange(width) + right - pad, 0, width - 1)
    shifted: Image = image.take(rows, axis=0).take(columns, axis=1)
    return shifted
