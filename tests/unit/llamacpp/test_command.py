"""One plan, said to the built-in engine or to a llama-server of one's own."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from allod.extensions.llamacpp import worker
from allod.extensions.llamacpp.command import (
    WorkerOptions,
    builtin_command,
    known_flags,
    program_command,
    worker_environment,
)
from allod.kernel.processes import ChildProcesses
from allod.sdk.engine import CPU, LoadPlan, ModelId
from allod.sdk.errors import LoadFailed
from allod.sdk.processes import Address

SOCKET = Address("/run/1/s.sock")
PROGRAM = Path("/opt/llama-server")
OPTIONS = WorkerOptions(
    plan=LoadPlan(ModelId("m"), {CPU: 1}, context_tokens=4096, pool_tokens=8192, slots=4),
    model=Path("/models/secret-place/m.gguf"),
    mmproj=None,
    lora=(),
    chat_template=None,
    pooling="",
    embedding_only=False,
    cache_type_k="f16",
    cache_type_v="q8_0",
    gpu_layers=-1,
    threads=0,
    batch_tokens=512,
    cache_ram_mib=256,
    unwritable=Path("/nowhere"),
)
NEEDED = frozenset(
    "--model --alias --host --ctx-size --kv-unified --parallel --batch-size --ubatch-size --threads-http"
    " --cache-type-k --cache-type-v --cache-ram --slot-save-path --metrics --jinja --verbosity".split()
)
OPTIONAL = frozenset(
    "--no-cache-idle-slots --kv-unified-per-slot --no-warmup --offline --slots --no-webui".split()
)
SOMETIMES = frozenset(
    "--gpu-layers --port --threads --embeddings --pooling --mmproj --chat-template-file --lora".split()
)


@pytest.fixture
def everything(tmp_path: Path) -> WorkerOptions:
    template = tmp_path / "template.jinja"
    template.write_text("{{ 分析 }}", "utf-8")
    return replace(
        OPTIONS,
        mmproj=Path("/models/mmproj.gguf"),
        lora=[Path("/l1.gguf"), Path("/l2.gguf")],
        chat_template=template,
        pooling="mean",
        gpu_layers=3,
        threads=2,
    )


def parameters(options: WorkerOptions, address: Address = SOCKET) -> dict[str, Any]:
    *_, text = builtin_command(options, address)
    return dict(json.loads(text))


def flags(
    options: WorkerOptions,
    known: frozenset[str] = NEEDED | OPTIONAL | SOMETIMES,
    address: Address = SOCKET,
) -> dict[str, list[str]]:
    """Flag -> the words after it, of each time that it is given."""
    program, *words = program_command(options, address, PROGRAM, known)
    assert program == str(PROGRAM)
    found: dict[str, list[str]] = {}
    for word in words:
        if word.startswith("--"):
            flag = word
            found.setdefault(flag, [])
        else:
            found[flag].append(word)
    return found


# the built-in engine


def test_the_built_in_worker_is_told_its_plan_and_its_socket() -> None:
    command = builtin_command(OPTIONS, SOCKET)
    assert command[:3] == [sys.executable, "-I", worker.__file__]
    said = parameters(OPTIONS)
    assert (said["n_ctx"], said["kv_unified_per_slot"], said["n_parallel"]) == (8192, 4096, 4)
    assert (said["hostnames"], said["port"], said["api_keys"]) == (["/run/1/s.sock"], 0, [])
    assert (said["n_batch"], said["n_ubatch"], said["cache_ram_mib"]) == (512, 512, 256)
    assert said["kv_unified"] is True


def test_the_model_s_path_is_hidden_behind_its_id() -> None:
    assert parameters(OPTIONS)["model_alias"] == ["m"]
    assert flags(OPTIONS)["--alias"] == ["m"]


def test_it_keeps_prefixes_shows_its_slots_and_has_no_web_page() -> None:
    said = parameters(OPTIONS)
    assert (said["cache_idle_slots"], said["ui"], said["offline"]) == (False, False, True)
    assert (said["endpoint_metrics"], said["endpoint_slots"]) == (True, True)
    assert said["slot_save_path"] == "/nowhere/"


def test_it_tells_of_no_request() -> None:
    """Above 2 llama.cpp logs requests, and with them words of prompts."""
    assert parameters(OPTIONS)["verbosity"] == 2
    assert flags(OPTIONS)["--verbosity"] == ["2"]


def test_where_no_layer_goes_to_a_gpu_nothing_is_fitted() -> None:
    """To see what fits, llama.cpp reads the vocabulary a second time, which takes up to a second."""
    for layers, fits in ((-1, True), (0, False), (3, True)):
        options = replace(OPTIONS, gpu_layers=layers)
        assert parameters(options)["fit_params"] is fits
        told = flags(options, NEEDED | OPTIONAL | SOMETIMES | {"--fit"})
        assert told.get("--fit") == (None if fits else ["off"])
        assert "--fit" not in flags(options)


def test_a_loopback_port_comes_with_its_key() -> None:
    said = parameters(OPTIONS, Address("127.0.0.1", 5000, "key"))
    assert (said["hostnames"], said["port"], said["api_keys"]) == (["127.0.0.1"], 5000, ["key"])


def test_what_is_not_wanted_is_not_said() -> None:
    absent = {
        "mmproj.path",
        "lora_adapters",
        "chat_template",
        "pooling_type",
        "embedding",
        "cpuparams.n_threads",
    }
    assert not absent & parameters(OPTIONS).keys()


def test_what_is_wanted_is_said(everything: WorkerOptions) -> None:
    said = parameters(everything)
    assert (said["mmproj.path"], said["lora_adapters"]) == ("/models/mmproj.gguf", ["/l1.gguf", "/l2.gguf"])
    assert (said["chat_template"], said["pooling_type"], said["embedding"]) == ("{{ 分析 }}", 1, True)
    assert (said["n_gpu_layers"], said["cpuparams.n_threads"]) == (3, 2)


def test_an_encoder_embeds_with_its_own_pooling() -> None:
    said = parameters(replace(OPTIONS, embedding_only=True))
    assert said["embedding"] is True
    assert "pooling_type" not in said


def test_the_engine_knows_every_parameter(everything: WorkerOptions) -> None:
    set_all = """
import json, runpy, sys
import xllamacpp
worker = runpy.run_path(sys.argv[1])
params = xllamacpp.CommonParams()
for name, value in json.loads(sys.argv[2]).items():
    target = params
    *parts, field = name.split(".")
    for part in parts:
        target = getattr(target, part)
    assert hasattr(target, field), name
    setattr(target, field, worker["_as_llama"](xllamacpp, field, value))
"""
    said = json.dumps(parameters(everything))
    command = [sys.executable, "-I", "-c", set_all, worker.__file__, said]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr


# a llama-server of one's own


def test_a_program_is_told_the_same() -> None:
    said = flags(OPTIONS)
    assert said["--host"] == ["/run/1/s.sock"]
    assert (said["--ctx-size"], said["--parallel"], said["--kv-unified-per-slot"]) == (
        ["8192"],
        ["4"],
        ["4096"],
    )
    assert (said["--cache-type-k"], said["--cache-type-v"]) == (["f16"], ["q8_0"])
    assert said["--kv-unified"] == said["--metrics"] == said["--jinja"] == []
    assert said.keys() == NEEDED | OPTIONAL


def test_a_program_is_told_what_is_wanted(everything: WorkerOptions) -> None:
    said = flags(everything, address=Address("127.0.0.1", 5000))
    assert said.keys() == NEEDED | OPTIONAL | SOMETIMES
    assert said["--lora"] == ["/l1.gguf", "/l2.gguf"]
    assert said["--chat-template-file"] == [str(everything.chat_template)]
    assert (said["--pooling"], said["--embeddings"], said["--port"]) == (["mean"], [], ["5000"])


def test_a_flag_that_only_makes_things_better_may_be_missing() -> None:
    assert flags(OPTIONS, NEEDED).keys() == NEEDED


@pytest.mark.parametrize("missing", sorted(NEEDED))
def test_a_flag_that_cannot_be_done_without_is_named(missing: str) -> None:
    with pytest.raises(LoadFailed, match=f"/opt/llama-server does not know {missing}") as caught:
        flags(OPTIONS, NEEDED - {missing})
    assert "newer llama-server" in caught.value.fix


def test_all_missing_flags_are_named_but_only_those_that_are_wanted(everything: WorkerOptions) -> None:
    with pytest.raises(
        LoadFailed, match="--chat-template-file, --embeddings, --gpu-layers, --lora, --mmproj"
    ):
        flags(everything, NEEDED)


def a_program(folder: Path, says: str) -> Path:
    path = folder / "program"
    path.write_text(f"#!/bin/sh\ncat <<'END'\n{says}\nEND\n")
    path.chmod(0o700)
    return path


async def test_flags_are_read_from_the_program_s_own_help(tmp_path: Path) -> None:
    program = a_program(
        tmp_path, "-m, --model FNAME  a file\n--kv-unified, --no-kv-unified\n(see--not ---nor)"
    )
    known = await known_flags(ChildProcesses(tmp_path), program)
    assert known == {"--model", "--kv-unified", "--no-kv-unified"}


async def test_another_program_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LoadFailed, match="is no llama-server"):
        await known_flags(ChildProcesses(tmp_path), a_program(tmp_path, "usage: --help"))


async def test_a_program_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(LoadFailed, match="none could not be started: No such file"):
        await known_flags(ChildProcesses(tmp_path), tmp_path / "none")


def test_waiting_threads_sleep_soon_unless_the_user_says_how_they_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    modern = sys.platform == "linux" and "xsavec" in Path("/proc/cpuinfo").read_text().split()
    assert worker_environment().get("GOMP_SPINCOUNT") == ("1000" if modern else None)
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    assert worker_environment()["GOMP_SPINCOUNT"] == "7"
    monkeypatch.delenv("GOMP_SPINCOUNT")
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    assert "GOMP_SPINCOUNT" not in worker_environment()


def test_a_worker_s_environment_holds_what_steers_a_gpu_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    monkeypatch.setenv("SECRET", "x")
    environment = worker_environment()
    assert environment["CUDA_VISIBLE_DEVICES"] == "1"
    assert not {"SECRET", "PATH", "HOME"} & environment.keys()
