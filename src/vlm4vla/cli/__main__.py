"""``python -m vlm4vla.cli``: the same as the console script."""

import sys

from vlm4vla.cli.main import main

sys.exit(main())
