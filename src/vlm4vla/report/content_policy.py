"""What the page lets a browser run and load: our own script and styles, known by their hashes, and nothing else.

Were a recorded text ever to end up as markup, a script in it would not run and a picture in it would not load.
"""

import base64
import hashlib
from collections.abc import Iterable

DRAWING_STYLE = "*{stroke-linejoin: round; stroke-linecap: butt}"
"""The style element that matplotlib puts into every SVG."""


def policy(scripts: Iterable[str], styles: Iterable[str]) -> str:
    """A Content-Security-Policy; ``scripts`` and ``styles`` are the contents of inline elements, to the letter.

    Style attributes stay allowed: figures are made of them, and they load and run nothing.
    """
    return "; ".join(
        [
            "default-src 'none'",
            f"script-src {_hashes(scripts)}",
            "style-src 'unsafe-inline'",  # for browsers that do not know the two below
            f"style-src-elem {_hashes(styles)}",
            "style-src-attr 'unsafe-inline'",
            "img-src data:",
            "media-src data: 'self' file:",
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )


def _hashes(texts: Iterable[str]) -> str:
    digests = (hashlib.sha256(text.encode()).digest() for text in texts)
    return " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)
