"""Each way out of the jail is shut, and the same way is open outside it, so that no test passes for want of a way.

The probes are small programs run behind `jail.py`, as whoever runs the tests and, if that is root, also as nobody.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import secrets
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from allod.kernel import jail

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the jail is for Linux")

_NOBODY = 65534
_MACHINE = os.uname().machine
_LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache")


@dataclass(frozen=True)
class Ran:
    """What a program did behind the walls."""

    status: int
    output: str
    errors: str

    @property
    def report(self) -> dict[str, Any]:
        [line] = [line for line in self.errors.splitlines() if line.startswith("allod-walls ")]
        return dict(json.loads(line.removeprefix("allod-walls ")))


@dataclass(frozen=True)
class Who:
    """A user, the interpreter that this user can run, and folders of theirs."""

    uid: int | None
    python: str
    prefix: str
    jail: Path
    folder: Path
    offered: Mapping[str, Any]

    @property
    def inner(self) -> Path:
        """The folder that the jail may write."""
        return self.folder / "in"

    @property
    def outer(self) -> Path:
        """A folder of the same user that the jail knows nothing of."""
        return self.folder / "out"

    def start(self, command: Sequence[str], **options: Any) -> subprocess.Popen[str]:
        pipes: dict[str, Any] = {
            "stdin": subprocess.DEVNULL,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
        }
        if self.uid is not None:
            pipes |= {"user": self.uid, "group": self.uid, "extra_groups": []}
        return subprocess.Popen(command, text=True, cwd="/", **pipes | options)

    def run(self, command: Sequence[str], **options: Any) -> Ran:
        with self.start(command, **options) as process:
            output, errors = process.communicate(timeout=60)
        return Ran(process.returncode, output.strip(), errors)

    def program(self, code: str, *arguments: object) -> list[str]:
        return [self.python, "-I", "-S", "-c", textwrap.dedent(code), *map(str, arguments)]

    def walled(self, program: Sequence[str], **changes: Any) -> list[str]:
        """The command that runs a program behind walls. `read` adds to what an interpreter needs."""
        spec: dict[str, Any] = {
            "parent": os.getpid(),
            "environment": {},
            "write": [str(self.inner)],
            **changes,
        }
        spec["read"] = [self.python, self.prefix, *_LIBRARIES, *map(str, changes.get("read", ()))]
        return [self.python, "-I", "-S", str(self.jail), json.dumps(spec), "--", *program]

    def outside(self, code: str, *arguments: object, **options: Any) -> Ran:
        return self.run(self.program(code, *arguments), **options)

    def inside(self, code: str, *arguments: object, **changes: Any) -> Ran:
        return self.run(self.walled(self.program(code, *arguments), **changes))

    def own(self, path: Path) -> Path:
        if self.uid is not None:
            os.chown(path, self.uid, self.uid)
        return path

    def has_landlock(self, abi: int) -> None:
        if (self.offered["landlock"] or 0) < abi:
            pytest.skip(f"this kernel has no Landlock of ABI {abi}")


def _interpreter(uid: int | None) -> tuple[str, str] | None:
    """An interpreter that this user can run, outside any virtual environment, and its prefix."""
    own = os.path.realpath(sys.executable)
    for candidate in (
        own,
        *(shutil.which(f"python3{minor}", path="/usr/bin:/usr/local/bin") for minor in ("", ".11")),
    ):
        if candidate is None:
            continue
        code = "import ctypes, json, resource, sys; print(sys.version_info >= (3, 11), sys.base_prefix)"
        with contextlib.suppress(OSError):
            identity: dict[str, Any] = {} if uid is None else {"user": uid, "group": uid, "extra_groups": []}
            answer = subprocess.run(
                [candidate, "-I", "-S", "-c", code],
                capture_output=True,
                text=True,
                cwd="/",
                check=False,
                **identity,
            )
            fits, _, prefix = answer.stdout.strip().partition(" ")
            if fits == "True":
                return os.path.realpath(candidate), prefix
    return None


@pytest.fixture(scope="module", params=["self", "nobody"])
def who(request: pytest.FixtureRequest) -> Iterator[Who]:
    uid = _NOBODY if request.param == "nobody" else None
    if uid is not None and os.geteuid() != 0:
        pytest.skip("only root can become nobody")
    found = _interpreter(uid)
    if found is None:
        pytest.skip("nobody can run no interpreter here: root's own is not readable")
    python, prefix = found
    folder = Path(tempfile.mkdtemp(prefix="jail-"))
    try:
        copy = Path(shutil.copy(jail.__file__, folder / "jail.py"))
        for path in (folder, copy, folder / "in", folder / "out"):
            if not path.exists():
                path.mkdir(mode=0o700)
            if uid is not None:
                os.chown(path, uid, uid)
        path_of_jail = copy if uid is not None else Path(jail.__file__)
        user = Who(uid, python, prefix, path_of_jail, folder, {})
        probed = user.run([python, "-I", "-S", str(path_of_jail), "--probe"])
        yield Who(uid, python, prefix, path_of_jail, folder, json.loads(probed.output))
    finally:
        shutil.rmtree(folder)


# --- the ways out ---------------------------------------------------------------------------------------------------

_FRAME = """
import ctypes, errno, os, socket, sys
libc = ctypes.CDLL(None, use_errno=True)
to = sys.argv[1:]
def check(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), "refused")
    return result
try:
{}
except OSError as error:
    print(errno.errorcode.get(error.errno, type(error).__name__))
else:
    print("OUT")
"""
_DNS_QUERY = struct.pack(">6H", 7, 0x0100, 1, 0, 0, 0) + b"\x07example\x04test\0" + struct.pack(">2H", 1, 1)


@dataclass(frozen=True)
class Target:
    """Something outside to reach: its address in words, and whether it was reached since the last question."""

    words: tuple[object, ...]
    was_reached: Callable[[], bool] | None = None


@contextlib.contextmanager
def _listener(who: Who, family: int, kind: int, address: Any) -> Iterator[Target]:
    with socket.socket(family, kind) as listener:
        try:
            listener.bind(address)
        except OSError:
            pytest.skip(f"no {address} on this machine")
        if isinstance(address, Path | str) and not str(address).startswith("\0"):
            who.own(Path(address))
        if kind == socket.SOCK_STREAM:
            listener.listen()
        listener.setblocking(False)

        def was_reached() -> bool:
            try:
                if kind == socket.SOCK_STREAM:
                    listener.accept()[0].close()
                else:
                    listener.recv(1000)
            except BlockingIOError:
                return False
            return True

        bound = listener.getsockname()
        yield Target((bound[1],) if isinstance(bound, tuple) else (address.replace("\0", "@"),), was_reached)


def _loopback(
    family: int, kind: int, host: str
) -> Callable[[Who], contextlib.AbstractContextManager[Target]]:
    return lambda who: _listener(who, family, kind, (host, 0))


def _abstract(who: Who) -> contextlib.AbstractContextManager[Target]:
    return _listener(who, socket.AF_UNIX, socket.SOCK_STREAM, "\0allod-" + secrets.token_hex(8))


def _socket_file(kind: int) -> Callable[[Who], contextlib.AbstractContextManager[Target]]:
    """A socket file even within the folder that may be written, where Landlock has no say."""
    return lambda who: _listener(who, socket.AF_UNIX, kind, str(who.inner / f"other-{secrets.token_hex(4)}"))


@contextlib.contextmanager
def _nothing(who: Who) -> Iterator[Target]:
    yield Target(())


@contextlib.contextmanager
def _outer_file(who: Who) -> Iterator[Target]:
    path = who.outer / "secret"
    path.write_text("secret")
    yield Target((who.own(path),))
    path.unlink(missing_ok=True)


@contextlib.contextmanager
def _outer_program(who: Who) -> Iterator[Target]:
    path = Path(shutil.copy(shutil.which("true") or "/bin/true", who.outer / "program"))
    yield Target((who.own(path),))
    path.unlink()


@contextlib.contextmanager
def _victim(who: Who) -> Iterator[Target]:
    """Another process of the same user."""
    with who.start(who.program("print('ready', flush=True); input()"), stdin=subprocess.PIPE) as process:
        assert process.stdout and process.stdout.readline() == "ready\n"
        yield Target((process.pid,))
        process.communicate("end\n")


@dataclass(frozen=True)
class Way:
    """A way out: what to run, what to reach, and how it is refused."""

    name: str
    code: str
    refusal: str
    target: Callable[[Who], contextlib.AbstractContextManager[Target]] = _nothing
    landlock: int = 0  # the ABI that it needs, for what no other layer shuts
    may_be_shut: bool = False  # some machines shut it for everybody
    changes: Mapping[str, Any] = field(default_factory=dict)


_STREAM, _DATAGRAM = socket.SOCK_STREAM, socket.SOCK_DGRAM
_TCP4 = _loopback(socket.AF_INET, _STREAM, "127.0.0.1")
_UDP4 = _loopback(socket.AF_INET, _DATAGRAM, "127.0.0.1")
_WAYS = (
    Way("TCP", "socket.create_connection(('127.0.0.1', int(to[0])), 5).close()", "EPERM", _TCP4),
    Way(
        "TCP over IPv6",
        "socket.socket(socket.AF_INET6).connect(('::1', int(to[0])))",
        "EPERM",
        _loopback(socket.AF_INET6, _STREAM, "::1"),
    ),
    Way(
        "UDP",
        "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'out', ('127.0.0.1', int(to[0])))",
        "EPERM",
        _UDP4,
    ),
    Way(
        "UDP over IPv6",
        "socket.socket(socket.AF_INET6, socket.SOCK_DGRAM).sendto(b'out', ('::1', int(to[0])))",
        "EPERM",
        _loopback(socket.AF_INET6, _DATAGRAM, "::1"),
    ),
    Way(
        "a DNS query",
        f"""
        s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        s.connect(('127.0.0.1', int(to[0])))
        s.send({_DNS_QUERY!r})
        """,
        "EPERM",
        _UDP4,
    ),
    Way("netlink", "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)", "EPERM"),
    Way(
        "an abstract unix socket",
        "socket.socket(socket.AF_UNIX).connect(to[0].replace('@', chr(0)))",
        "EPERM",
        _abstract,
    ),
    Way("a socket file", "socket.socket(socket.AF_UNIX).connect(to[0])", "EPERM", _socket_file(_STREAM)),
    Way(
        "a unix datagram",
        "socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b'out', to[0])",
        "EPERM",
        _socket_file(_DATAGRAM),
    ),
    Way(
        "a unix datagram of the old raw kind",
        "socket.socket(socket.AF_UNIX, socket.SOCK_RAW).sendmsg([b'out'], [], 0, to[0])",
        "EPERM",
        _socket_file(_DATAGRAM),
    ),
    Way(
        "a unix datagram from a pair",
        "socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)[0].sendmsg([b'out'], [], 0, to[0])",
        "EPERM",
        _socket_file(_DATAGRAM),
    ),
    Way(
        "io_uring",
        "check(libc.syscall(ctypes.c_long(425), ctypes.c_long(1), ctypes.create_string_buffer(120)))",
        "EPERM",
        may_be_shut=True,
    ),
    Way(
        "ptrace",
        """
        reader, writer = os.pipe()
        child = os.fork()
        if not child:
            os.close(writer)
            os.read(reader, 1)
            os._exit(0)
        try:
            check(libc.ptrace(0x4206, ctypes.c_long(child), None, None))  # PTRACE_SEIZE
        finally:
            os.close(writer)
        """,
        "EPERM",
        may_be_shut=True,
    ),
    Way("another user namespace", "check(libc.unshare(0x10000000))", "EPERM", may_be_shut=True),
    Way("a file", "open(to[0]).read()", "EACCES", _outer_file, landlock=1),
    Way("a folder's names", "os.listdir(os.path.dirname(to[0]))", "EACCES", _outer_file, landlock=1),
    Way("changing a file", "open(to[0], 'a').write('out')", "EACCES", _outer_file, landlock=1),
    Way("emptying a file", "os.truncate(to[0], 0)", "EACCES", _outer_file, landlock=3),
    Way("removing a file", "os.unlink(to[0])", "EACCES", _outer_file, landlock=1),
    Way("making a file", "open(to[0] + '2', 'w').close()", "EACCES", _outer_file, landlock=1),
    Way(
        "writing what may be read",
        "open(to[0], 'a').close()",
        "EACCES",
        _outer_file,
        landlock=1,
        changes={"read": ["OUTER"]},
    ),
    Way("a program", "os.posix_spawn(to[0], to, {})", "EACCES", _outer_program, landlock=1),
    Way("a signal", "os.kill(int(to[0]), 0)", "EPERM", _victim, landlock=6),
    Way(
        "another process's memory",
        "open(f'/proc/{to[0]}/mem', 'rb').close()",
        "EACCES",
        _victim,
        landlock=1,
        changes={"read": ["/proc"]},
    ),
)


@pytest.mark.parametrize("way", _WAYS, ids=lambda way: way.name.replace(" ", "-"))
def test_way_out_is_shut(way: Way, who: Who) -> None:
    who.has_landlock(way.landlock)
    code = _FRAME.format(textwrap.indent(textwrap.dedent(way.code).strip(), "    "))
    changes = {k: [str(who.outer) if p == "OUTER" else p for p in paths] for k, paths in way.changes.items()}

    with way.target(who) as target:
        walled = who.inside(code, *target.words, **changes)
        assert (walled.output, walled.status) == (way.refusal, 0), walled.errors
        assert target.was_reached is None or not target.was_reached()

        free = who.outside(code, *target.words)
        if way.may_be_shut and free.output != "OUT":
            pytest.skip(f"shut on this machine for everybody: {free.output}")
        assert free.output == "OUT", free
        assert target.was_reached is None or target.was_reached()


# --- a wall alone, and none -----------------------------------------------------------------------------------------

# Refuses what a layer is built with, by a seccomp filter around the launcher: as a kernel without it would.
_ON_A_LESSER_KERNEL = """
import ctypes, importlib.util, os, struct, sys
path, numbers, *command = sys.argv[1:]
spec = importlib.util.spec_from_file_location("jail", path)
jail = importlib.util.module_from_spec(spec)
spec.loader.exec_module(jail)
refuse, allow = (0x06, 0, 0, 0x00050026), (0x06, 0, 0, 0x7FFF0000)  # errno 38, ENOSYS
program = [(0x20, 0, 0, 0)]
for number in map(int, numbers.split(",")):
    if number in (157, 167):  # prctl(PR_SET_SECCOMP)
        program += [(0x15, 0, 4, number), (0x20, 0, 0, 16), (0x15, 0, 1, 22), refuse, allow]
    else:
        program += [(0x15, 0, 1, number), refuse]
ctypes.CDLL(None).prctl(38, *map(ctypes.c_ulong, (1, 0, 0, 0)))
jail.install_filter([*program, allow])
os.execv(command[0], command)
"""
_BUILT_WITH = {
    "namespaces": {"x86_64": 272, "aarch64": 97},
    "landlock": {"x86_64": 444, "aarch64": 444},
    "seccomp": {"x86_64": 157, "aarch64": 167},
}
_CONNECT = _FRAME.format("    socket.socket().connect(('127.0.0.1', int(to[0])))")


def _without(who: Who, layers: Sequence[str], command: Sequence[str]) -> Ran:
    if _MACHINE not in jail._MACHINES:
        pytest.skip("no seccomp filter for this machine")
    numbers = ",".join(str(_BUILT_WITH[layer][_MACHINE]) for layer in sorted(layers, key=jail.LAYERS.index))
    return who.run(who.program(_ON_A_LESSER_KERNEL, who.jail, numbers, *command))


@pytest.mark.parametrize(
    ("alone", "refusal"), [("namespaces", "ENETUNREACH"), ("landlock", "EACCES"), ("seccomp", "EPERM")]
)
def test_each_layer_alone_stops_tcp_and_the_report_names_it(who: Who, alone: str, refusal: str) -> None:
    if not who.offered[alone] or (alone == "landlock" and who.offered[alone] < 4):
        pytest.skip(f"this kernel offers no {alone}")
    missing = [layer for layer in jail.LAYERS if layer != alone]

    with _TCP4(who) as target:
        walled = _without(who, missing, who.walled(who.program(_CONNECT, *target.words)))
        assert walled.output == refusal, walled
        assert target.was_reached and not target.was_reached()

    report = walled.report
    assert {layer: report[layer] for layer in jail.LAYERS} == dict.fromkeys(missing) | {
        alone: who.offered[alone]
    }
    assert {layer: report["why"][layer] for layer in missing} == dict.fromkeys(
        missing, os.strerror(errno.ENOSYS)
    )


def test_without_any_wall_nothing_is_started(who: Who) -> None:
    mark = who.inner / "started"
    ran = _without(who, jail.LAYERS, who.walled(who.program("open(__import__('sys').argv[1], 'w')", mark)))
    assert ran.status == jail.NO_WALLS == 77
    assert "no wall holds" in ran.errors
    assert "allod-walls" not in ran.errors
    assert not mark.exists()


def test_without_any_wall_it_starts_if_that_is_wanted(who: Who) -> None:
    with _TCP4(who) as target:
        program = who.walled(who.program(_CONNECT, *target.words), refuse_without_walls=False)
        ran = _without(who, jail.LAYERS, program)
        assert ran.output == "OUT"
        assert target.was_reached and target.was_reached()
    assert not any(ran.report[layer] for layer in jail.LAYERS)
    assert ran.report["why"].keys() == set(jail.LAYERS)


# --- what the program is left with ----------------------------------------------------------------------------------


def test_environment_is_the_given_one_and_the_report(who: Who) -> None:
    code = "print(open('/proc/self/environ').read().replace(chr(0), chr(10)))"
    given = {"ALLOD_TEST": "1"}
    around = {"ALLOD_SECRET": "2", "LANG": "C.UTF-8"}
    program = who.walled(who.program(code), environment=given, read=["/proc"])
    ran = who.run(program, env=around)
    seen = dict(line.split("=", 1) for line in ran.output.splitlines())
    assert json.loads(seen.pop("ALLOD_WALLS")) == ran.report
    assert seen == given
    assert "ALLOD_SECRET=2" in who.outside(code, env=around).output


def test_all_layers_hold_that_the_kernel_offers(who: Who) -> None:
    report = who.inside("pass").report
    assert report == dict(who.offered)
    assert report.keys() == {*jail.LAYERS, "why"}
    if os.geteuid() == 0:
        assert report["seccomp"] is True


_STATUS = "print(open('/proc/self/status').read())"


def _status(ran: Ran) -> dict[str, str]:
    return {key: value.strip() for key, _, value in (line.partition(":") for line in ran.output.splitlines())}


@pytest.mark.parametrize("namespaces", [["net", "ipc"], []], ids=["in-namespaces", "without-namespaces"])
def test_no_capability_and_no_way_to_gain_one(who: Who, namespaces: list[str]) -> None:
    status = _status(who.inside(_STATUS, read=["/proc"], namespaces=namespaces))
    sets = ["CapInh", "CapPrm", "CapEff", "CapAmb"]
    if namespaces or (who.uid is None and os.geteuid() == 0):
        sets.append("CapBnd")  # shrinking this one takes a capability; elsewhere NO_NEW_PRIVS makes it void
    assert {name: int(status[name], 16) for name in sets} == dict.fromkeys(sets, 0)
    assert status["NoNewPrivs"] == "1"

    free = _status(who.outside(_STATUS))
    assert int(free["CapBnd"], 16)
    assert free["NoNewPrivs"] == "0"
    if who.uid is None and os.geteuid() == 0:
        assert int(free["CapEff"], 16)


def test_no_core_file(who: Who) -> None:
    code = "import resource; print(*resource.getrlimit(resource.RLIMIT_CORE))"
    assert who.inside(code).output == "0 0"
    if who.outside(code).output == "0 0":
        pytest.skip("no core files on this machine for anybody")


_DESCRIPTORS = """
import os
for descriptor in range(512):
    try:
        os.fstat(descriptor)
    except OSError:
        continue
    print(descriptor, end=" ")
"""


def test_no_descriptor_is_inherited_but_the_first_three(who: Who) -> None:
    reader, writer = os.pipe()
    try:
        walled = who.run(who.walled(who.program(_DESCRIPTORS)), pass_fds=(reader, writer))
        free = who.outside(_DESCRIPTORS, pass_fds=(reader, writer))
    finally:
        os.close(reader)
        os.close(writer)
    assert walled.output == "0 1 2"
    assert {reader, writer} <= set(map(int, free.output.split()))


@pytest.mark.parametrize(
    ("family", "kind"), [(socket.AF_INET, _STREAM), (socket.AF_INET, _DATAGRAM), (socket.AF_UNIX, _DATAGRAM)]
)
def test_no_socket_that_reaches_others_is_kept(who: Who, family: int, kind: int) -> None:
    with socket.socket(family, kind) as held:
        ran = who.run(who.walled(who.program("print('started')")), stdin=held)
    assert (ran.status, ran.output) == (1, "")
    assert "descriptor 0 is a socket" in ran.errors


def test_a_pair_of_unix_streams_may_be_its_input(who: Who) -> None:
    """So asyncio and uvloop talk to their children."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(b"word\n")
        ours.shutdown(socket.SHUT_WR)
        assert who.run(who.walled(who.program("print(input())")), stdin=theirs).output == "word"


def test_signals_have_their_default_effect_again(who: Who) -> None:
    cat = os.path.realpath(shutil.which("cat") or "/bin/cat")
    ran = who.run(who.walled([cat, "/proc/self/status"], read=[cat, "/proc"]))
    assert int(_status(ran)["SigIgn"], 16) & (1 << signal.SIGPIPE - 1) == 0


def test_a_device_answers_ioctls_only_where_it_may_be_written(who: Who) -> None:
    """As a GPU's nodes must."""
    who.has_landlock(5)
    code = "import fcntl; fcntl.ioctl(open('/dev/urandom', 'rb'), 0x80045200, bytes(4))"  # RNDGETENTCNT
    code = _FRAME.format(f"    {code}")
    write = [str(who.inner), "/dev/urandom"]
    assert who.inside(code, read=["/dev/urandom"]).output == "EACCES"
    assert who.inside(code, write=write).output == "OUT"


# --- its life -------------------------------------------------------------------------------------------------------

_SPAWN = """
import json, os, subprocess, sys, time
walled, free = map(json.loads, sys.argv[1:])
walled = [a.replace("PARENT", str(os.getpid())) for a in walled]
print(*(subprocess.Popen(c, stderr=subprocess.DEVNULL).pid for c in (walled, free)), flush=True)
time.sleep(60)
"""


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def _within(seconds: float, condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def test_it_dies_when_its_parent_is_killed(who: Who) -> None:
    mark = who.inner / f"started-{secrets.token_hex(4)}"
    sleeper = who.program("import sys, time; open(sys.argv[1], 'w').close(); time.sleep(60)", mark)
    walled = who.walled(sleeper)
    walled[4] = walled[4].replace(f'"parent": {os.getpid()}', '"parent": PARENT')
    free = who.program("import time; time.sleep(60)")
    spawner = who.program(_SPAWN, json.dumps(walled), json.dumps(free))
    with who.start(spawner, stderr=subprocess.DEVNULL) as parent:
        assert parent.stdout
        jailed_pid, free_pid = map(int, parent.stdout.readline().split())
        try:
            assert _within(20, mark.exists)  # it has got through exec
            assert _runs(jailed_pid)
            parent.send_signal(signal.SIGKILL)
            parent.wait()
            assert _within(5, lambda: not _runs(jailed_pid))
            assert _runs(free_pid)
        finally:
            parent.kill()
            for pid in (jailed_pid, free_pid):
                if _runs(pid):
                    os.kill(pid, signal.SIGKILL)


def test_it_does_not_start_for_another_parent(who: Who) -> None:
    with who.start(who.program("pass")) as gone:
        gone.communicate()
    ran = who.inside("print('started')", parent=gone.pid)
    assert (ran.status, ran.output) == (1, "")
    assert f"the parent {gone.pid} is gone" in ran.errors


_SERVER = """
import socket, sys
with socket.socket(socket.AF_UNIX) as listener:
    listener.bind(sys.argv[1])
    listener.listen()
    print("ready", flush=True)
    connection = listener.accept()[0]
    with connection:
        connection.sendall(connection.recv(100).upper())
"""


def test_a_server_that_only_accepts_serves_a_client_outside(who: Who) -> None:
    path = who.inner / "server.sock"
    with who.start(who.walled(who.program(_SERVER, path))) as server:
        assert server.stdout and server.stdout.readline() == "ready\n"
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            client.sendall(b"hello")
            assert client.recv(100) == b"HELLO"
        server.communicate(timeout=20)
    assert server.returncode == 0


def test_threads_children_event_loops_and_own_files_work(who: Who) -> None:
    code = """
    import asyncio, os, socket, subprocess, sys, threading
    thread = threading.Thread(target=lambda: open(sys.argv[1] + "/file", "w").write("text"))
    thread.start()
    thread.join()
    here, there = socket.socketpair()
    here.send(b"pair")
    async def loop():
        return await asyncio.to_thread(there.recv, 9)
    child = [sys.executable, "-I", "-S", "-c", "print('child')"]
    print(open(sys.argv[1] + "/file").read(), asyncio.run(loop()), subprocess.check_output(child))
    """
    ran = who.inside(code, who.inner)
    assert ran.output == r"text b'pair' b'child\n'", ran.errors


def test_missing_paths_are_skipped_and_a_single_file_can_be_given(who: Who) -> None:
    with _outer_file(who) as target:
        [path] = target.words
        code = "import sys; print(open(sys.argv[1]).read())"
        assert who.inside(code, path, read=["/no/such/path", path]).output == "secret"


def test_a_program_that_cannot_be_started_says_why(who: Who) -> None:
    ran = who.run(who.walled([str(who.inner / "none")]))
    assert (ran.status, ran.errors.splitlines()[-1]) == (
        1,
        f"jail: {who.inner}/none: No such file or directory",
    )


# --- the spec and the probe -----------------------------------------------------------------------------------------

_SPEC = {"parent": 1, "environment": {}}


def test_defaults_of_the_spec_are_tight() -> None:
    assert jail.parse_spec(json.dumps(_SPEC)) == _SPEC | {
        "namespaces": ["net", "ipc"],
        "read": [],
        "write": [],
        "refuse_without_walls": True,
    }


@pytest.mark.parametrize(
    "spec",
    [
        {"parent": 1},
        {"environment": {}},
        _SPEC | {"wirte": []},
        _SPEC | {"read": "/lib"},
        _SPEC | {"parent": True},
        _SPEC | {"refuse_without_walls": 0},
        _SPEC | {"namespaces": ["pid"]},
        [],
    ],
    ids=json.dumps,
)
def test_a_spec_that_is_not_understood_starts_nothing(who: Who, spec: object) -> None:
    with pytest.raises((ValueError, TypeError)):
        jail.parse_spec(json.dumps(spec))
    command = [
        who.python,
        "-I",
        "-S",
        str(who.jail),
        json.dumps(spec),
        "--",
        *who.program("print('started')"),
    ]
    ran = who.run(command)
    assert (ran.status, ran.output) == (os.EX_USAGE, "")
    assert "usage" in ran.errors


def test_asking_what_is_supported_leaves_the_asker_as_it_was(who: Who) -> None:
    code = """
    import importlib.util, json, socket, sys
    spec = importlib.util.spec_from_file_location("jail", sys.argv[1])
    jail = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(jail)
    before = open("/proc/self/status").read()
    report = jail.supported()
    socket.socket(socket.AF_INET).close()
    lines = zip(before.splitlines(), open("/proc/self/status").read().splitlines())
    changed = [a for a, b in lines if a != b and a.split(":")[0] in ("Seccomp", "NoNewPrivs", "CapEff", "Uid")]
    print(json.dumps([report, changed]))
    """
    ran = who.outside(code, who.jail)
    assert json.loads(ran.output) == [dict(who.offered), []], ran.errors


# --- Landlock and the filter, as values ------------------------------------------------------------------------------


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


def test_filter_holds_a_network_socket_that_is_there_already(who: Who) -> None:
    """The launcher keeps none. Should one come by anyway: no connect, no fast open, no address."""
    body = """
    import importlib.util
    spec = importlib.util.spec_from_file_location("jail", to[0])
    jail = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(jail)
    s = socket.socket(socket.AF_INET, int(to[3]))
    if to[2] == "walled":
        jail.drop_privileges()
        jail.install_filter(jail.filter_program(os.uname().machine))
    address = ("127.0.0.1", int(to[1]))
    """
    ways = {
        "s.connect(address)": _STREAM,
        "s.sendto(b'out', 0x20000000, address)": _STREAM,
        "s.sendmsg([b'out'], [], 0x20000000, address)": _STREAM,
        "s.sendto(b'out', address)": _DATAGRAM,
    }
    if _MACHINE not in jail._MACHINES:
        pytest.skip("no seccomp filter for this machine")
    for way, kind in ways.items():
        code = _FRAME.format(textwrap.indent(textwrap.dedent(body) + way, "    "))
        with _loopback(socket.AF_INET, kind, "127.0.0.1")(who) as target:
            assert target.was_reached
            assert who.outside(code, who.jail, *target.words, "walled", int(kind)).output == "EPERM", way
            assert not target.was_reached()
            assert who.outside(code, who.jail, *target.words, "free", int(kind)).output == "OUT", way
            assert target.was_reached()


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
