"""Memory that was freed, given back to the operating system."""

import ctypes
import sys


def give_back() -> None:
    """Returns what was freed, where the C library can (glibc); elsewhere it does nothing.

    Freed memory stays with the process as long as something above it is in use. Steps that keep a few numbers of every
    block so come to hold a layer of every block, all of it free.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)
