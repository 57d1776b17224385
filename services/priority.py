"""Threads that compute let those go first that answer: a refusal costs little, but only if it comes at once.

With as many computing threads as cores the event loop would get a share of a core only, and under too many calls they
would pile up before it: services/docs/load.md has the times.
"""

from __future__ import annotations

import os
import sys
import threading
from contextlib import suppress

NICENESS = 10
"""Above the process's own; a thread at 10 has a tenth of the weight of one at 0 (setpriority(2), sched(7))."""


def step_back() -> None:
    """Let the calling thread, and those that it starts from now on, be scheduled after others. Linux only."""
    if sys.platform == "linux":  # there a thread has a niceness of its own
        with suppress(OSError):
            own = os.getpriority(os.PRIO_PROCESS, os.getpid())
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), own + NICENESS)
