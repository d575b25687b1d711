"""A network of the tests' own, in which there is nothing but loopback, for this process and all that it starts."""

from __future__ import annotations

import ctypes
import os
import socket
import struct
import sys
from pathlib import Path

_NEW_USER, _NEW_NET = 0x1000_0000, 0x4000_0000
_GET_FLAGS, _SET_FLAGS, _UP = 0x8913, 0x8914, 1


def enter() -> str:
    """Move this process there, before it has any thread, and say how it went."""
    if sys.platform != "linux":
        return "NOT separated: only Linux has network namespaces"
    libc = ctypes.CDLL(None, use_errno=True)
    uid, gid = os.getuid(), os.getgid()
    is_root = libc.unshare(_NEW_NET) == 0  # needs no user namespace, so that files keep their owners
    if not is_root and libc.unshare(_NEW_USER | _NEW_NET) != 0:
        return f"NOT separated: the kernel says {os.strerror(ctypes.get_errno())!r}"
    if not is_root:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")
        Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
    _raise_loopback()
    return "none but loopback, in a namespace of the tests' own"


def _raise_loopback() -> None:
    import fcntl

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as handle:
        asked = struct.pack("16sh14x", b"lo", 0)
        flags = struct.unpack("16sh14x", fcntl.ioctl(handle, _GET_FLAGS, asked))[1]
        fcntl.ioctl(handle, _SET_FLAGS, struct.pack("16sh14x", b"lo", flags | _UP))
