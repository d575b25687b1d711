"""Each way out of the jail is shut, and the same way is open outside it, so that no test passes for want of a way.

The probes are small programs run behind `jail.py`, as whoever runs the tests and, if that is root, also as nobody.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from allod.kernel import jail
from tests.unit.kernel.jailed import Ran, Who, user

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the jail is for Linux")

_MACHINE = os.uname().machine
_STREAM, _DATAGRAM = socket.SOCK_STREAM, socket.SOCK_DGRAM


@pytest.fixture(scope="module", params=["self", "nobody"])
def who(request: pytest.FixtureRequest) -> Iterator[Who]:
    is_nobody = request.param == "nobody"
    if is_nobody and os.geteuid() != 0:
        pytest.skip("only root can become nobody")
    with user(is_nobody=is_nobody) as found:
        if found is None:
            pytest.skip("nobody can run no interpreter here: root's own is not readable")
        yield found


# --- the ways out ---------------------------------------------------------------------------------------------------

_FRAME = """
import ctypes, errno, os, socket, sys
libc = ctypes.CDLL(None, use_errno=True)
to = sys.argv[1:]
def check(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), "refused")
try:
{}
except OSError as error:
    print(errno.errorcode.get(error.errno, type(error).__name__))
else:
    print("OUT")
"""


def _framed(code: str) -> str:
    return _FRAME.format(textwrap.indent(textwrap.dedent(code).strip(), "    "))


@dataclass(frozen=True)
class Target:
    """Something outside to reach: its address in words, and whether it was reached since the last question."""

    words: tuple[object, ...] = ()
    was_reached: Callable[[], bool] | None = None


Place = Callable[[Who], AbstractContextManager[Target]]


@contextmanager
def _listener(who: Who, family: int, kind: int, address: Any) -> Iterator[Target]:
    with socket.socket(family, kind) as listener:
        listener.bind(address)
        if isinstance(address, str) and not address.startswith("\0"):
            who.own(Path(address))
        if kind == _STREAM:
            listener.listen()
        listener.setblocking(False)

        def was_reached() -> bool:
            try:
                if kind == _STREAM:
                    listener.accept()[0].close()
                else:
                    listener.recv(1000)
            except BlockingIOError:
                return False
            return True

        bound = listener.getsockname()
        yield Target((bound[1],) if isinstance(bound, tuple) else (address.replace("\0", "@"),), was_reached)


def _loopback(kind: int) -> Place:
    return lambda who: _listener(who, socket.AF_INET, kind, ("127.0.0.1", 0))


def _abstract(who: Who) -> AbstractContextManager[Target]:
    return _listener(who, socket.AF_UNIX, _STREAM, "\0allod-" + secrets.token_hex(8))


def _socket_file(kind: int) -> Place:
    """A socket file even within the folder that may be written, where Landlock has no say."""
    return lambda who: _listener(who, socket.AF_UNIX, kind, str(who.inner / secrets.token_hex(4)))


def _nothing(who: Who) -> AbstractContextManager[Target]:
    return nullcontext(Target())


@contextmanager
def _file(who: Who) -> Iterator[Target]:
    path = who.outer / "secret"
    path.write_text("secret")
    yield Target((who.own(path),))
    path.unlink(missing_ok=True)


@contextmanager
def _program(who: Who) -> Iterator[Target]:
    path = Path(shutil.copy(shutil.which("true") or "/bin/true", who.outer / "program"))
    yield Target((who.own(path),))
    path.unlink()


@contextmanager
def _process(who: Who) -> Iterator[Target]:
    """Another process of the same user."""
    with who.start(who.program("print('ready', flush=True); input()"), stdin=subprocess.PIPE) as process:
        assert process.stdout and process.stdout.readline() == "ready\n"
        yield Target((process.pid,))
        process.communicate("end\n")


_TCP, _UDP, _UNIX_DATAGRAM = _loopback(_STREAM), _loopback(_DATAGRAM), _socket_file(_DATAGRAM)
_PTRACE = """
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
"""
# What goes out over sockets, or deeper into the kernel: refused by the filter, whatever else holds.
_CALLS: dict[str, tuple[Place, str]] = {
    "TCP": (_TCP, "socket.create_connection(('127.0.0.1', int(to[0])), 5).close()"),
    "UDP": (_UDP, "socket.socket(type=socket.SOCK_DGRAM).sendto(b'out', ('127.0.0.1', int(to[0])))"),
    "a name's address": (
        _UDP,
        "s = socket.socket(type=socket.SOCK_DGRAM); s.connect(('127.0.0.1', int(to[0]))); s.send(b'A?')",
    ),
    "netlink": (_nothing, "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)"),
    "an abstract socket": (_abstract, "socket.socket(socket.AF_UNIX).connect(to[0].replace('@', chr(0)))"),
    "a socket file": (_socket_file(_STREAM), "socket.socket(socket.AF_UNIX).connect(to[0])"),
    "a unix datagram": (
        _UNIX_DATAGRAM,
        "socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b'out', to[0])",
    ),
    "a raw unix datagram": (
        _UNIX_DATAGRAM,
        "socket.socket(socket.AF_UNIX, socket.SOCK_RAW).sendmsg([b'out'], [], 0, to[0])",
    ),
    "a datagram from a pair": (
        _UNIX_DATAGRAM,
        "socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)[0].sendmsg([b'out'], [], 0, to[0])",
    ),
    "io_uring": (
        _nothing,
        "check(libc.syscall(ctypes.c_long(425), ctypes.c_long(1), ctypes.create_string_buffer(120)))",
    ),
    "ptrace": (_nothing, _PTRACE),
    "another user namespace": (_nothing, "check(libc.unshare(0x10000000))"),
}
_MAY_BE_SHUT_FOR_ALL = ("io_uring", "ptrace", "another user namespace")
# What touches files and processes: Landlock's ABI that shuts it, how it is refused.
_TOUCHES: dict[str, tuple[int, str, Place, str]] = {
    "a file": (1, "EACCES", _file, "open(to[0]).read()"),
    "a folder's names": (1, "EACCES", _file, "os.listdir(os.path.dirname(to[0]))"),
    "changing a file": (1, "EACCES", _file, "open(to[0], 'a').write('out')"),
    "emptying a file": (3, "EACCES", _file, "os.truncate(to[0], 0)"),
    "removing a file": (1, "EACCES", _file, "os.unlink(to[0])"),
    "making a file": (1, "EACCES", _file, "open(to[0] + '2', 'w').close()"),
    "a program": (1, "EACCES", _program, "os.posix_spawn(to[0], to, {})"),
    "a process's memory": (1, "EACCES", _process, "open(f'/proc/{to[0]}/mem', 'rb').close()"),
    "a signal": (6, "EPERM", _process, "os.kill(int(to[0]), 0)"),
}


@pytest.mark.parametrize("way", _CALLS)
def test_a_call_that_leads_out_is_refused(way: str, who: Who) -> None:
    place, code = _CALLS[way]
    with place(who) as target:
        walled = who.inside(_framed(code), *target.words)
        assert walled.output == "EPERM", walled
        assert target.was_reached is None or not target.was_reached()
        free = who.outside(_framed(code), *target.words)
        if way in _MAY_BE_SHUT_FOR_ALL and free.output != "OUT":
            pytest.skip(f"shut on this machine for everybody: {free.output}")
        assert free.output == "OUT", free
        assert target.was_reached is None or target.was_reached()


@pytest.mark.parametrize("way", _TOUCHES)
def test_what_lies_outside_is_not_touched(way: str, who: Who) -> None:
    abi, refusal, place, code = _TOUCHES[way]
    if (who.offered["landlock"] or 0) < abi:
        pytest.skip(f"this kernel has no Landlock of ABI {abi}")
    with place(who) as target:
        walled = who.inside(_framed(code), *target.words, read=["/proc"])
        assert walled.output == refusal, walled
        free = who.outside(_framed(code), *target.words)
        assert free.output == "OUT", free


def test_what_may_be_read_may_not_be_written(who: Who) -> None:
    if not who.offered["landlock"]:
        pytest.skip("this kernel has no Landlock")
    with _file(who) as target:
        read = _framed("open(to[0]).read()")
        assert who.inside(read, *target.words, read=[who.outer, "/no/such/path"]).output == "OUT"
        write = _framed("open(to[0], 'a').close()")
        assert who.inside(write, *target.words, read=[who.outer]).output == "EACCES"


# --- a wall alone, and none -----------------------------------------------------------------------------------------

# Refuses what a layer is built with, by a seccomp filter around the launcher: as a kernel without it would.
_ON_A_LESSER_KERNEL = """
import ctypes, importlib.util, os, sys
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
_CONNECT = _framed("socket.socket().connect(('127.0.0.1', int(to[0])))")


def _without(who: Who, layers: Sequence[str], command: Sequence[str]) -> Ran:
    if _MACHINE not in jail._MACHINES:
        pytest.skip("no seccomp filter for this machine")
    numbers = ",".join(str(_BUILT_WITH[layer][_MACHINE]) for layer in jail.LAYERS if layer in layers)
    return who.run(who.program(_ON_A_LESSER_KERNEL, who.jail, numbers, *command))


@pytest.mark.parametrize(
    ("alone", "refusal"), [("namespaces", "ENETUNREACH"), ("landlock", "EACCES"), ("seccomp", "EPERM")]
)
def test_each_layer_alone_stops_tcp_and_the_report_names_it(who: Who, alone: str, refusal: str) -> None:
    if not who.offered[alone] or (alone == "landlock" and who.offered[alone] < 4):
        pytest.skip(f"this kernel offers no {alone}")
    missing = [layer for layer in jail.LAYERS if layer != alone]
    with _TCP(who) as target:
        walled = _without(who, missing, who.walled(who.program(_CONNECT, *target.words)))
        assert walled.output == refusal, walled
        assert target.was_reached and not target.was_reached()
    held = {layer: walled.report[layer] for layer in jail.LAYERS}
    assert held == dict.fromkeys(missing) | {alone: who.offered[alone]}
    assert {walled.report["why"][layer] for layer in missing} == {os.strerror(errno.ENOSYS)}


def test_without_any_wall_nothing_is_started(who: Who) -> None:
    ran = _without(who, jail.LAYERS, who.walled(who.program("print('started')")))
    assert (ran.status, ran.output) == (jail.NO_WALLS, "")
    assert "no wall holds" in ran.errors
    assert "allod-walls" not in ran.errors


def test_without_any_wall_it_starts_if_that_is_wanted(who: Who) -> None:
    with _TCP(who) as target:
        program = who.walled(who.program(_CONNECT, *target.words), refuse_without_walls=False)
        ran = _without(who, jail.LAYERS, program)
    assert ran.output == "OUT"
    assert [ran.report[layer] for layer in jail.LAYERS] == [None] * 3
    assert ran.report["why"].keys() == set(jail.LAYERS)


def test_all_layers_hold_that_the_kernel_offers(who: Who) -> None:
    assert who.inside("pass").report == who.offered
    assert who.offered.keys() == {*jail.LAYERS, "why"}


# --- what the program is left with ----------------------------------------------------------------------------------


def _status(ran: Ran) -> dict[str, str]:
    return {key: value.strip() for key, _, value in (line.partition(":") for line in ran.output.splitlines())}


def test_environment_is_the_given_one_and_the_report(who: Who) -> None:
    code = "print(open('/proc/self/environ').read().replace(chr(0), chr(10)))"
    around = {"ALLOD_SECRET": "2", "LANG": "C.UTF-8"}
    program = who.walled(who.program(code), environment={"ALLOD_TEST": "1"}, read=["/proc"])
    ran = who.run(program, env=around)
    seen = dict(line.split("=", 1) for line in ran.output.splitlines())
    assert json.loads(seen.pop("ALLOD_WALLS")) == ran.report
    assert seen == {"ALLOD_TEST": "1"}
    assert "ALLOD_SECRET=2" in who.outside(code, env=around).output


@pytest.mark.parametrize("namespaces", [["net", "ipc"], []], ids=["in-namespaces", "without-namespaces"])
def test_no_capability_and_no_way_to_gain_one(who: Who, namespaces: list[str]) -> None:
    code = "print(open('/proc/self/status').read())"
    status = _status(who.inside(code, read=["/proc"], namespaces=namespaces))
    sets = ["CapInh", "CapPrm", "CapEff", "CapAmb"]
    if namespaces or who.is_root:
        sets.append("CapBnd")  # shrinking this one takes a capability; elsewhere NO_NEW_PRIVS makes it void
    assert {int(status[name], 16) for name in sets} == {0}
    assert status["NoNewPrivs"] == "1"

    free = _status(who.outside(code))
    assert int(free["CapBnd"], 16)
    assert free["NoNewPrivs"] == "0"


def test_signals_have_their_default_effect_again(who: Who) -> None:
    cat = os.path.realpath(shutil.which("cat") or "/bin/cat")
    status = _status(who.run(who.walled([cat, "/proc/self/status"], read=[cat, "/proc"])))
    assert int(status["SigIgn"], 16) & (1 << signal.SIGPIPE - 1) == 0


def test_no_core_file(who: Who) -> None:
    code = "import resource; print(*resource.getrlimit(resource.RLIMIT_CORE))"
    assert who.inside(code).output == "0 0"


def test_no_descriptor_is_inherited_but_the_first_three(who: Who) -> None:
    code = "import os; print(*os.listdir('/proc/self/fd'))"
    reader, writer = os.pipe()
    walled = who.run(who.walled(who.program(code), read=["/proc"]), pass_fds=(reader, writer))
    free = who.outside(code, pass_fds=(reader, writer))
    os.close(reader)
    os.close(writer)
    assert set(walled.output.split()) == {"0", "1", "2", "3"}  # the last is the listing's own
    assert {str(reader), str(writer)} <= set(free.output.split())


@pytest.mark.parametrize(
    ("family", "kind"), [(socket.AF_INET, _STREAM), (socket.AF_INET, _DATAGRAM), (socket.AF_UNIX, _DATAGRAM)]
)
def test_no_socket_that_reaches_others_is_kept(who: Who, family: int, kind: int) -> None:
    with socket.socket(family, kind) as held:
        ran = who.run(who.walled(who.program("print('started')")), stdin=held)
    assert (ran.status, ran.output) == (1, "")
    assert "descriptor 0 is a socket" in ran.errors


@pytest.mark.parametrize(("dumpable", "outcome"), [(0, "EPERM"), (1, "OUT")])
def test_run_here_it_can_hide_its_memory(who: Who, dumpable: int, outcome: str) -> None:
    """A program that was exec'd behind walls cannot: the owner of its user namespace has every capability in it."""
    if who.is_root:
        pytest.skip("root may read everything")
    code = """
    import ctypes, sys, time
    libc, secret = ctypes.CDLL(None), ctypes.create_string_buffer(b"secret")
    libc.prctl(4, int(sys.argv[1]), 0, 0, 0)
    print(ctypes.addressof(secret), flush=True)
    time.sleep(60)
    """
    read = """
    class Span(ctypes.Structure):
        _fields_ = [("base", ctypes.c_void_p), ("size", ctypes.c_size_t)]
    one, buffer = ctypes.c_ulong(1), ctypes.create_string_buffer(6)
    here, there = Span(ctypes.addressof(buffer), 6), Span(int(to[1]), 6)
    pid, none = int(to[0]), ctypes.c_ulong(0)
    check(libc.process_vm_readv(pid, ctypes.byref(here), one, ctypes.byref(there), one, none))
    """
    file = who.inner / "program.py"
    file.write_text(textwrap.dedent(code))
    command = who.walled([str(file), str(dumpable)])
    command[command.index("--")] = "--run"
    with who.start(command) as process:
        assert process.stdout
        address = process.stdout.readline().strip()
        found = who.outside(_framed(read), process.pid, address).output
        process.kill()
    if dumpable and found != outcome:
        pytest.skip("no program may read another's memory here")
    assert found == outcome


# --- its life -------------------------------------------------------------------------------------------------------

_SPAWN = """
import json, os, subprocess, sys, time
walled, free = map(json.loads, sys.argv[1:])
walled = [word.replace("PARENT", str(os.getpid())) for word in walled]
children = [subprocess.Popen(c, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) for c in (walled, free)]
for child in children:
    child.stdout.readline()  # it has got through exec
print(*(child.pid for child in children), flush=True)
time.sleep(60)
"""


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def test_it_dies_when_its_parent_is_killed(who: Who) -> None:
    sleeper = who.program("import time; print('ready', flush=True); time.sleep(60)")
    walled = who.walled(sleeper)
    walled[4] = walled[4].replace(f'"parent": {os.getpid()}', '"parent": PARENT')
    with who.start(who.program(_SPAWN, json.dumps(walled), json.dumps(sleeper))) as parent:
        assert parent.stdout
        jailed, free = map(int, parent.stdout.readline().split())
        try:
            parent.kill()
            parent.wait()
            deadline = time.monotonic() + 5
            while _runs(jailed) and time.monotonic() < deadline:
                time.sleep(0.01)
            assert (_runs(jailed), _runs(free)) == (False, True)
        finally:
            for pid in filter(_runs, (jailed, free)):
                os.kill(pid, signal.SIGKILL)


def test_it_does_not_start_for_another_parent(who: Who) -> None:
    with who.start(who.program("pass")) as gone:
        gone.communicate()
    ran = who.inside("print('started')", parent=gone.pid)
    assert (ran.status, ran.output) == (1, "")
    assert f"the parent {gone.pid} is gone" in ran.errors


def test_a_server_that_only_accepts_serves_a_client_outside(who: Who) -> None:
    code = """
    import socket, sys
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(sys.argv[1])
        listener.listen()
        print("ready", flush=True)
        with listener.accept()[0] as connection:
            connection.sendall(connection.recv(100).upper())
    """
    path = who.inner / "server.sock"
    with who.start(who.walled(who.program(code, path))) as server:
        assert server.stdout and server.stdout.readline() == "ready\n"
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            client.sendall(b"hello")
            assert client.recv(100) == b"HELLO"


def test_a_program_that_cannot_be_started_says_why(who: Who) -> None:
    ran = who.run(who.walled([str(who.inner / "none")]))
    assert ran.status == 1
    assert ran.errors.splitlines()[-1] == f"jail: {who.inner}/none: No such file or directory"


# --- the spec -------------------------------------------------------------------------------------------------------

_SPEC = {"parent": 1, "environment": {}}


def test_defaults_of_the_spec_are_tight() -> None:
    tight = {"namespaces": ["net", "ipc"], "read": [], "write": [], "refuse_without_walls": True}
    assert jail.parse_spec(json.dumps(_SPEC)) == _SPEC | tight


@pytest.mark.parametrize(
    "spec",
    [
        *({"parent": 1}, {"environment": {}}, _SPEC | {"wirte": []}, _SPEC | {"read": "/lib"}, []),
        *(_SPEC | {"parent": True}, _SPEC | {"refuse_without_walls": 0}, _SPEC | {"namespaces": ["pid"]}),
    ],
    ids=json.dumps,
)
def test_a_spec_that_is_not_understood_is_refused(spec: object) -> None:
    with pytest.raises((ValueError, TypeError)):
        jail.parse_spec(json.dumps(spec))


@pytest.mark.parametrize("arguments", [["{}", "--", "/bin/true"], ["{}", "/bin/true"], ["{}", "--"], []])
def test_a_command_line_that_is_unclear_starts_nothing(who: Who, arguments: list[str]) -> None:
    ran = who.run([who.python, "-I", "-S", str(who.jail), *arguments])
    assert ran.status == os.EX_USAGE
    assert "usage" in ran.errors
