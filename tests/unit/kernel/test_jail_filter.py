"""What the jail asks of the kernel, as values: Landlock's rights by ABI, the filter's verdict on each call."""

from __future__ import annotations

import re
import socket
import struct
from pathlib import Path

import pytest

from allod.kernel import jail


@pytest.mark.parametrize(
    ("abi", "files", "rest"),
    [
        (1, 13, ()),
        (2, 14, ()),
        (3, 15, ()),
        (4, 15, (3,)),
        (5, 16, (3,)),
        (6, 16, (3, 3)),
        (8, 16, (3, 3)),
        (9, 17, (3, 3)),
        (10, 17, (15, 3)),
    ],
)
def test_a_ruleset_has_what_its_abi_knows(abi: int, files: int, rest: tuple[int, ...]) -> None:
    assert jail.landlock_ruleset(abi) == struct.pack(f"{1 + len(rest)}Q", (1 << files) - 1, *rest)


def test_rights_of_paths() -> None:
    assert jail.landlock_rights(7, may_write=False, is_folder=True) == 0b1101
    assert jail.landlock_rights(7, may_write=False, is_folder=False) == 0b0101
    assert jail.landlock_rights(7, may_write=True, is_folder=True) == 0xFFFF
    assert jail.landlock_rights(7, may_write=True, is_folder=False) == 0b1100_0000_0000_0111
    assert jail.landlock_rights(1, may_write=True, is_folder=False) == 0b0111
    assert (
        jail.landlock_rights(10, may_write=True, is_folder=True) == 0xFFFF
    )  # not bit 16, connecting to a socket


def _verdict(machine: str, number: int, *arguments: int, arch: int | None = None) -> str:
    """What the filter says to a call: an interpreter of the few BPF instructions that it uses."""
    arch = jail._MACHINES[machine] if arch is None else arch
    padded = (*arguments, 0, 0, 0, 0, 0, 0)[:6]
    data = struct.pack("<IIQ6Q", number, arch, 0, *(a & 0xFFFF_FFFF_FFFF_FFFF for a in padded))
    program = jail.filter_program(machine)
    at = value = 0
    while True:
        code, if_true, if_false, operand = program[at]
        at += 1
        if code == 0x06:
            words = {0x7FFF_0000: "allow", 0x0005_0001: "EPERM", 0x0005_0026: "ENOSYS"}
            return words[operand]
        if code == 0x20:
            [value] = struct.unpack_from("<I", data, operand)
        elif code == 0x54:
            value &= operand
        else:
            holds = {0x15: value == operand, 0x35: value >= operand, 0x45: bool(value & operand)}[code]
            at += if_true if holds else if_false


_machines = pytest.mark.parametrize(("machine", "column"), [("x86_64", 0), ("aarch64", 1)])
_FAST_OPEN, _NO_SIGNAL = 0x2000_0000, 0x4000


@_machines
def test_filter_refuses_whole_calls(machine: str, column: int) -> None:
    assert len(jail.filter_program(machine)) < 4096  # BPF_MAXINSNS
    for name, numbers in jail._REFUSED.items():
        assert _verdict(machine, numbers[column]) == "EPERM", name
    for number in (
        0,
        1,
        3,
        (43, 202)[column],
        (49, 200)[column],
        (50, 201)[column],
        (59, 221)[column],
        202,
        436,
    ):
        assert _verdict(machine, number) == "allow", number  # among them bind, listen, accept and execve


@_machines
def test_filter_knows_no_other_calling_convention(machine: str, column: int) -> None:
    for arch in (0x4000_0003, 0x4000_0028, *(set(jail._MACHINES.values()) - {jail._MACHINES[machine]})):
        assert _verdict(machine, 0, arch=arch) == "EPERM"
    assert _verdict(machine, 0x4000_0000) == _verdict(machine, 0x4000_0000 + 41) == "EPERM"
    assert _verdict(machine, 0xFFFF_FFFF) == "EPERM"
    assert _verdict(machine, 471) == "allow"
    assert _verdict(machine, 472) == "ENOSYS"
    assert _verdict(machine, 435) == "ENOSYS"


@_machines
@pytest.mark.parametrize("call", ["socket", "socketpair"])
def test_filter_has_only_unix_streams(machine: str, column: int, call: str) -> None:
    number = jail._JUDGED[call][column]
    for flags in (0, socket.SOCK_CLOEXEC, socket.SOCK_NONBLOCK, socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK):
        assert _verdict(machine, number, 1, 1 | flags) == "allow"
        assert (
            _verdict(machine, number, 1 << 32 | 1, 1 | flags) == "allow"
        )  # the kernel sees the low half only
        for kind in (0, 2, 3, 4, 5, 6, 10):
            assert _verdict(machine, number, 1, kind | flags) == "EPERM"
        for family in (0, 2, 10, 16, 17, 38, 40, 44, 0xFFFF_FFFF):
            assert _verdict(machine, number, family, 1 | flags) == "EPERM"


@_machines
def test_filter_lets_send_but_not_to_an_address(machine: str, column: int) -> None:
    sendto, sendmsg, sendmmsg = (jail._JUDGED[name][column] for name in ("sendto", "sendmsg", "sendmmsg"))
    assert _verdict(machine, sendto, 3, 0x7FFF_0000_1000, 9, _NO_SIGNAL, 0, 0) == "allow"
    assert _verdict(machine, sendto, 3, 0x1000, 9, _FAST_OPEN | _NO_SIGNAL, 0, 0) == "EPERM"
    for address in (0x1000, 0x1_0000_0000, 0x7FFF_0000_1000, 1 << 63):
        assert _verdict(machine, sendto, 3, 0x1000, 9, 0, address, 16) == "EPERM"
    assert _verdict(machine, sendmsg, 3, 0x1000, _NO_SIGNAL) == "allow"
    assert _verdict(machine, sendmsg, 3, 0x1000, _FAST_OPEN) == "EPERM"
    assert _verdict(machine, sendmmsg, 3, 0x1000, 2, _NO_SIGNAL) == "allow"
    assert _verdict(machine, sendmmsg, 3, 0x1000, 2, _FAST_OPEN) == "EPERM"


@_machines
def test_filter_keeps_the_terminal_and_the_namespaces(machine: str, column: int) -> None:
    ioctl, clone = jail._JUDGED["ioctl"][column], jail._JUDGED["clone"][column]
    assert _verdict(machine, ioctl, 0, 0x5412) == _verdict(machine, ioctl, 0, 0x541C) == "EPERM"
    assert _verdict(machine, ioctl, 0, 1 << 32 | 0x5412) == "EPERM"
    assert _verdict(machine, ioctl, 0, 0x5401) == "allow"
    assert _verdict(machine, clone, 0x003D_0F00) == "allow"  # as for a thread
    assert _verdict(machine, clone, 0x0120_0011) == "allow"  # as for a child
    for bit in (17, 25, 26, 27, 28, 29, 30):  # mount, cgroup, uts, ipc, user, pid, net
        assert _verdict(machine, clone, 1 << bit | 17) == "EPERM"


def test_no_filter_for_an_unknown_machine() -> None:
    with pytest.raises(OSError, match="riscv64"):
        jail.filter_program("riscv64")


@_machines
def test_numbers_are_those_of_the_kernel_headers(machine: str, column: int) -> None:
    places = {
        "x86_64": ("/usr/include/x86_64-linux-gnu/asm/unistd_64.h", "/usr/include/asm/unistd_64.h"),
        "aarch64": ("/usr/include/asm-generic/unistd.h",),
    }
    texts = [Path(place).read_text() for place in places[machine] if Path(place).exists()]
    if not texts:
        pytest.skip("no kernel headers on this machine")
    known = dict(re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", texts[0]))
    ours = {name: numbers[column] for name, numbers in (jail._REFUSED | jail._JUDGED).items()}
    checked = {name: number for name, number in ours.items() if name in known}
    assert checked == {name: int(known[name]) for name in checked}
    assert len(checked) >= 30
