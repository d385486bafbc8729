"""Permissions that root obeys too, so that tests of folders without them mean the same for every user."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

VERSION = 0x20080522  # of the calls below
IGNORES_PERMISSIONS = 0b110  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH


class Header(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]


class Capabilities(ctypes.Structure):
    _fields_ = [("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32)]


@contextmanager
def obeyed() -> Iterator[None]:
    """This thread opens only what the permissions of files and folders allow."""
    libc = ctypes.CDLL(None, use_errno=True)
    header, held = Header(VERSION, 0), (Capabilities * 2)()
    libc.capget(ctypes.byref(header), held)
    before = held[0].effective
    held[0].effective = before & ~IGNORES_PERMISSIONS
    libc.capset(ctypes.byref(header), held)
    try:
        yield
    finally:
        held[0].effective = before
        libc.capset(ctypes.byref(header), held)
