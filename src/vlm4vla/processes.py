"""Child processes that end with their parent. Standard library only, as simulators' environments use it too."""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1
# Loaded here, not in the call: that may run between fork and exec, where little is allowed.
_LIBC = ctypes.CDLL(None)


def die_with_parent(parent: int) -> None:
    """Called in a child: Linux kills it as soon as its parent is gone, however that ended. Elsewhere nothing happens.

    ``parent`` is the parent's process id: a parent that died before the call sends no signal any more. What counts as
    the parent's end is the end of the thread that started the child, so start it from one that lives long enough.
    """
    if sys.platform != "linux":
        return
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)
