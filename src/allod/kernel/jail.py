"""Walls around this process, then another program in its place: a worker, which only answers on a unix socket.

    python -I -S jail.py SPEC -- PROGRAM ARGUMENT...     become PROGRAM (an absolute path) behind walls
    python -I jail.py SPEC --run FILE ARGUMENT...        run a Python file behind walls, in this same interpreter
    python -I -S jail.py --probe                         print which layers this kernel offers

SPEC is a JSON object. Every key but the first two may be left out; the default is the tighter choice.
    parent                 pid of the parent; the program is killed when the thread that started it ends
    environment            the program's whole environment; ALLOD_WALLS, the report, is added
    namespaces             of "net" and "ipc", made inside a new user namespace
    read, write            files and folders: read and execute, or everything, at and below them
    refuse_without_walls   end with status 77 if none of the three layers holds
Three layers, because each alone leaks: namespaces (no interfaces), Landlock (files, TCP, abstract sockets,
signals), seccomp (no socket but a unix stream, no connect). The system may refuse any, so stderr tells what holds:
    allod-walls {"namespaces": "net+ipc", "landlock": 7, "seccomp": null, "why": {"seccomp": "Invalid argument"}}
Not layers but always: no capability, no new privilege, no core file, no descriptor but 0, 1 and 2.

Left open: sendmsg(2) with an address on a datagram socket, since a filter cannot look behind a pointer; so no such
socket can be made or kept. Signals to the same user's processes before Landlock ABI 6. The names of processes where
/proc may be read. A core limit of 0 does not stop a core_pattern pipe (core(5)): the program has to set
PR_SET_DUMPABLE itself, because exec resets it. That hides its memory from the same user's other programs only
where it was exec'd outside of the user namespace, whose owner has every capability in it (user_namespaces(7)), also
to trace: so with --run, and not with a program of others.

Imports nothing of Allod and runs before any thread exists. Linux; the seccomp layer on x86_64 and aarch64 only.
Numbers: asm/unistd_64.h, asm-generic/unistd.h, linux/{audit,capability,landlock,prctl,sched,seccomp,socket}.h.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import resource
import signal
import stat
import struct
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:  # the real constant is in typing, whose import would take 3 of 20 ms
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any

    Instruction = tuple[int, int, int, int]  # classic BPF: code, jump if true, jump if false, operand

NO_WALLS = 77
LAYERS = ("namespaces", "landlock", "seccomp")

_libc = ctypes.CDLL(None, use_errno=True)

_NAMESPACES = {"net": 0x4000_0000, "ipc": 0x0800_0000}
_NEW_USER, _NEW_ANY = 0x1000_0000, 0x7E02_0000  # the latter: every CLONE_NEW* that clone(2) takes
_SET_PDEATHSIG, _SET_SECCOMP, _CAPBSET_DROP, _SET_NO_NEW_PRIVS = 1, 22, 24, 38
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1, 2, 4, 8
_TRUNCATE, _IOCTL_DEV, _RESOLVE_UNIX = 1 << 14, 1 << 15, 1 << 16
_AF_UNIX, _SOCK_STREAM, _SOCK_TYPE_MASK, _MSG_FASTOPEN = 1, 1, 0xF, 0x2000_0000
_SOL_SOCKET, _SO_TYPE, _SO_DOMAIN = 1, 3, 39
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C  # type into the terminal as if it were the user

# System calls, by number: x86_64, aarch64.
_MACHINES = {"x86_64": 0xC000_003E, "aarch64": 0xC000_00B7}
# fmt: off
_REFUSED = {
    "connect": (42, 203),
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271),
    "pidfd_getfd": (438, 438), "process_madvise": (440, 440),
    "io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427),
    "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282),
    "add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219),
    "unshare": (272, 97), "setns": (308, 268), "chroot": (161, 51), "pivot_root": (155, 41),
    "mount": (165, 40), "umount2": (166, 39), "mount_setattr": (442, 442), "move_mount": (429, 429),
    "open_tree": (428, 428), "open_tree_attr": (467, 467),
    "fsopen": (430, 430), "fsconfig": (431, 431), "fsmount": (432, 432), "fspick": (433, 433),
}
_JUDGED = {
    "socket": (41, 198), "socketpair": (53, 199), "sendto": (44, 206), "sendmsg": (46, 211),
    "sendmmsg": (307, 269), "ioctl": (16, 29), "clone": (56, 220),
}
# fmt: on
_CLONE3 = 435  # has its flags behind a pointer; on ENOSYS the C library takes clone(2)
_NEWEST = 471  # of Linux 7.0; younger calls have not been judged
_X32 = 0x4000_0000  # set in the numbers of x86_64's other calling convention
_LOAD, _AND, _RETURN, _IF_EQUAL, _IF_AT_LEAST, _IF_ANY_BIT = 0x20, 0x54, 0x06, 0x15, 0x35, 0x45
_ALLOW = (_RETURN, 0, 0, 0x7FFF_0000)
_REFUSE = (_RETURN, 0, 0, 0x0005_0000 | errno.EPERM)
_UNKNOWN = (_RETURN, 0, 0, 0x0005_0000 | errno.ENOSYS)


def _checked(result: int) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def _syscall(number: int, *arguments: int | bytes | None) -> int:
    wide = (ctypes.c_long(a) if isinstance(a, int) else a for a in arguments)
    return _checked(_libc.syscall(ctypes.c_long(number), *wide))


def _prctl(option: int, *arguments: int) -> int:
    padded = (*arguments, 0, 0, 0, 0)[:4]
    return _checked(_libc.prctl(option, *(ctypes.c_ulong(a) for a in padded)))


def keep_standard_descriptors() -> None:
    """Close every descriptor but 0, 1 and 2. Raises OSError if one of those is a socket that could reach others."""
    with os.scandir("/proc/self/fd") as entries:
        inherited = [int(entry.name) for entry in entries]
    for descriptor in inherited:
        if descriptor > 2:
            with contextlib.suppress(OSError):  # the listing's own is closed already
                os.close(descriptor)
        elif stat.S_ISSOCK(os.fstat(descriptor).st_mode) and not _is_unix_stream(descriptor):
            raise OSError(errno.EPERM, f"descriptor {descriptor} is a socket, and not a unix stream")


def _is_unix_stream(descriptor: int) -> bool:
    value, size = ctypes.c_int(-1), ctypes.c_uint(4)
    for option, wanted in ((_SO_DOMAIN, _AF_UNIX), (_SO_TYPE, _SOCK_STREAM)):
        _checked(_libc.getsockopt(descriptor, _SOL_SOCKET, option, ctypes.byref(value), ctypes.byref(size)))
        if value.value != wanted:
            return False
    return True


def enter_namespaces(names: Sequence[str]) -> str:
    """Move into a new user namespace and into new ones of these kinds, which are empty: not even a loopback is up.

    user_namespaces(7). The process must have one thread only. Its ids are unmapped until `map_own_ids`.
    """
    if not names:
        raise OSError(0, "not asked for")
    _checked(_libc.unshare(_NEW_USER | sum(_NAMESPACES[name] for name in names)))
    return "+".join(names)


def map_own_ids(uid: int, gid: int) -> None:
    """Give this process, inside its new user namespace, the ids that it had outside.

    Raises OSError where uid 0 lacks CAP_SETFCAP: it then sees itself as nobody, with its rights to files unchanged.
    """
    for file, text in (("setgroups", "deny"), ("gid_map", f"{gid} {gid} 1"), ("uid_map", f"{uid} {uid} 1")):
        descriptor = os.open(f"/proc/self/{file}", os.O_WRONLY)
        try:
            os.write(descriptor, text.encode())
        finally:
            os.close(descriptor)


def drop_privileges() -> None:
    """Give up all capabilities for good, whoever this is: no program started from here gains any (capabilities(7)).

    Where CAP_SETPCAP is missing the bounding set stays, and NO_NEW_PRIVS alone keeps an exec by root from refilling.
    """
    with contextlib.suppress(OSError):  # the end of the list, or no CAP_SETPCAP
        for capability in range(64):
            _prctl(_CAPBSET_DROP, capability)
    version_3 = struct.pack("Ii", 0x2008_0522, 0)
    _checked(_libc.capset(version_3, bytes(24)))  # the ambient set empties with the permitted one
    _prctl(_SET_NO_NEW_PRIVS, 1)


def landlock_ruleset(abi: int) -> bytes:
    """A landlock_ruleset_attr that shuts what this ABI can shut: files, then TCP (4), scopes (6), UDP (10)."""
    files = (1 << {1: 13, 2: 14, 3: 15, 4: 15}.get(abi, 16)) - 1 | (_RESOLVE_UNIX if abi >= 9 else 0)
    network = 0b1111 if abi >= 10 else 0b11
    return struct.pack("QQQ", files, network, 0b11)[: 8 if abi < 4 else 16 if abi < 6 else 24]


def landlock_rights(abi: int, *, may_write: bool, is_folder: bool) -> int:
    """The rights that a path gives. Writing a device includes its ioctls; connecting to a socket is never given."""
    handled = int.from_bytes(landlock_ruleset(abi)[:8], sys.byteorder) & ~_RESOLVE_UNIX
    wanted = handled if may_write else _EXECUTE | _READ_FILE | _READ_DIR
    for_files = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV
    return wanted & handled & (-1 if is_folder else for_files)


def shut_files(read: Iterable[str], write: Iterable[str]) -> int:
    """Landlock: no files but these, no TCP on any socket, no abstract socket and no signal out of here. Gives its ABI.

    https://docs.kernel.org/userspace-api/landlock.html. A path that cannot be opened is skipped: it stays shut.
    """
    abi = _syscall(_CREATE_RULESET, None, 0, 1)
    attributes = landlock_ruleset(abi)
    ruleset = _syscall(_CREATE_RULESET, attributes, len(attributes), 0)
    for path, may_write in [*((p, False) for p in read), *((p, True) for p in write)]:
        try:
            descriptor = os.open(path, os.O_PATH)
        except OSError:
            continue
        is_folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        rights = landlock_rights(abi, may_write=may_write, is_folder=is_folder)
        _syscall(_ADD_RULE, ruleset, 1, struct.pack("=Qi", rights, descriptor), 0)
        os.close(descriptor)
    _syscall(_RESTRICT_SELF, ruleset, 0)
    os.close(ruleset)
    return abi


def _argument(index: int, *, high: bool = False) -> Instruction:
    return (_LOAD, 0, 0, 16 + 8 * index + 4 * high)


def _when(test: int, operand: int, then: Instruction) -> list[Instruction]:
    return [(test, 0, 1, operand), then]


def _unless_equal(operand: int, then: Instruction) -> list[Instruction]:
    return [(_IF_EQUAL, 1, 0, operand), then]


def filter_program(machine: str) -> list[Instruction]:
    """The seccomp filter of a worker on this machine (seccomp(2)). Refused calls give EPERM, unjudged ones ENOSYS.

    It lists what is refused: runtimes and GPU drivers differ too much for a list of what is allowed.
    Raises OSError for a machine whose numbers are not here.
    """
    if machine not in _MACHINES:
        raise OSError(errno.ENOSYS, f"no filter for {machine}")
    column = list(_MACHINES).index(machine)
    stream = [_argument(1), (_AND, 0, 0, _SOCK_TYPE_MASK), *_unless_equal(_SOCK_STREAM, _REFUSE)]
    unix_stream = [_argument(0), *_unless_equal(_AF_UNIX, _REFUSE), *stream]
    null = _unless_equal(0, _REFUSE)
    no_address = [_argument(4), *null, _argument(4, high=True), *null]
    no_fast_open = _when(_IF_ANY_BIT, _MSG_FASTOPEN, _REFUSE)
    judged: dict[str, list[Instruction]] = {
        "socket": unix_stream,
        "socketpair": unix_stream,
        "sendto": [_argument(3), *no_fast_open, *no_address],
        "sendmsg": [_argument(2), *no_fast_open],
        "sendmmsg": [_argument(3), *no_fast_open],
        "ioctl": [_argument(1), *_when(_IF_EQUAL, _TIOCSTI, _REFUSE), *_when(_IF_EQUAL, _TIOCLINUX, _REFUSE)],
        "clone": [_argument(0), *_when(_IF_ANY_BIT, _NEW_ANY, _REFUSE)],
    }
    program = [(_LOAD, 0, 0, 4), *_unless_equal(_MACHINES[machine], _REFUSE), (_LOAD, 0, 0, 0)]
    program += [*_when(_IF_AT_LEAST, _X32, _REFUSE), *_when(_IF_AT_LEAST, _NEWEST + 1, _UNKNOWN)]
    program += _when(_IF_EQUAL, _CLONE3, _UNKNOWN)
    for numbers in _REFUSED.values():
        program += _when(_IF_EQUAL, numbers[column], _REFUSE)
    for name, numbers in _JUDGED.items():
        program += [(_IF_EQUAL, 0, len(judged[name]) + 1, numbers[column]), *judged[name], _ALLOW]
    return [*program, _ALLOW]


def install_filter(program: Sequence[Instruction]) -> bool:
    """Hold this process and all that it starts to a seccomp filter. NO_NEW_PRIVS must be set. Always True."""
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *instruction) for instruction in program))
    header = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(program), ctypes.addressof(code)))
    _prctl(_SET_SECCOMP, 2, ctypes.addressof(header))
    return True


def put_up_walls(namespaces: Sequence[str], read: Iterable[str], write: Iterable[str]) -> dict[str, Any]:
    """Apply all layers to this process, in the one order that works, and report what holds.

    The report has a value for each layer, None where the system refused it; "why" has the system's words.
    """
    report: dict[str, Any] = {}
    why: dict[str, str] = {}

    def layer(name: str, put_up: Callable[[], object]) -> None:
        try:
            report[name] = put_up()
        except OSError as error:
            report[name], why[name] = None, error.strerror or repr(error)

    uid, gid = os.getuid(), os.getgid()
    layer("namespaces", lambda: enter_namespaces(namespaces))
    if report["namespaces"]:
        try:
            map_own_ids(uid, gid)
        except OSError as error:
            why["namespaces"] = f"hold, but ids are not mapped: {error.strerror}"
    drop_privileges()
    layer("landlock", lambda: shut_files(read, write))
    layer("seccomp", lambda: install_filter(filter_program(os.uname().machine)))
    return report | {"why": why}


def supported() -> dict[str, Any]:
    """Which layers this kernel offers, as a report: puts them up in a forked child, so the caller stays as it is.

    A process with threads should rather run this file with --probe: forking is not safe there.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writer, json.dumps(put_up_walls(tuple(_NAMESPACES), (), ())).encode())
        finally:
            os._exit(0)
    os.close(writer)
    answer = os.read(reader, 65536)
    os.close(reader)
    os.waitpid(child, 0)
    return dict(json.loads(answer))


def die_with(parent: int) -> None:
    """Be killed when this parent ends; end now if it is gone. Last, since gaining credentials cancels it (prctl(2))."""
    _prctl(_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(f"jail: the parent {parent} is gone")


def parse_spec(text: str) -> dict[str, Any]:
    """The spec with its defaults. Raises ValueError for anything that it does not know, rather than guess."""
    defaults = {"namespaces": list(_NAMESPACES), "read": [], "write": [], "refuse_without_walls": True}
    forms = {"parent": 0, "environment": {}, **defaults}
    spec: dict[str, Any] = defaults | json.loads(text)
    if spec.keys() != forms.keys() or any(type(spec[key]) is not type(form) for key, form in forms.items()):
        raise ValueError(f"the spec needs {', '.join(forms)}, and no other keys")
    if unknown := set(spec["namespaces"]) - _NAMESPACES.keys():
        raise ValueError(f"unknown namespaces: {unknown}")
    return spec


def shut_in(spec: dict[str, Any]) -> str:
    """Put up the walls that a spec asks for, say so on stderr, and give the report as JSON."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    keep_standard_descriptors()
    report = put_up_walls(spec["namespaces"], spec["read"], spec["write"])
    text = json.dumps(report)
    if spec["refuse_without_walls"] and not any(report[layer] for layer in LAYERS):
        os.write(2, f"jail: no wall holds, so nothing is started: {text}\n".encode())
        sys.exit(NO_WALLS)
    die_with(spec["parent"])
    os.write(2, f"allod-walls {text}\n".encode())
    return text


def become(spec: dict[str, Any], argv: list[str]) -> None:
    """Put up the walls and exec, so it never returns. Raises OSError if the program cannot be started."""
    text = shut_in(spec)
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them, and exec hands that on
        signal.signal(number, signal.SIG_DFL)
    os.execve(argv[0], argv, spec["environment"] | {"ALLOD_WALLS": text})


def run_here(spec: dict[str, Any], argv: list[str]) -> None:
    """Put up the walls and run a Python file as the main program. Who starts this has to scrub the environment."""
    import runpy

    text = shut_in(spec)
    os.environ.clear()
    os.environ.update(spec["environment"] | {"ALLOD_WALLS": text})
    sys.argv = argv
    runpy.run_path(argv[0], run_name="__main__")


def main(arguments: list[str]) -> None:
    """Do what the command line says. Exits with 64 if that is unclear, with 1 if the program cannot be started."""
    if arguments == ["--probe"]:
        os.write(1, json.dumps(supported()).encode() + b"\n")
        return
    try:
        text, how, *argv = arguments
        if how not in ("--", "--run") or not argv:
            raise ValueError("no program")
        spec = parse_spec(text)
    except (ValueError, TypeError) as error:
        os.write(2, f"jail: {error}; usage: jail.py SPEC (-- PROGRAM | --run FILE) ARGUMENT...\n".encode())
        sys.exit(os.EX_USAGE)
    if how == "--run":
        return run_here(spec, argv)
    try:
        become(spec, argv)
    except OSError as error:
        sys.exit(f"jail: {argv[0]}: {error.strerror}")


if __name__ == "__main__":
    main(sys.argv[1:])
