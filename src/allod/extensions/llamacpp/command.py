"""How a worker is started: one plan, said either to the built-in engine or to any llama-server program."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from allod.sdk.engine import LoadPlan
from allod.sdk.errors import LoadFailed
from allod.sdk.processes import Address, Processes

_WORKER = Path(__file__).with_name("worker.py")
_POOLING = {"mean": 1, "cls": 2, "last": 3}
_GGML_TYPE = {
    "f32": 0,
    "f16": 1,
    "q4_0": 2,
    "q4_1": 3,
    "q5_0": 6,
    "q5_1": 7,
    "q8_0": 8,
    "iq4_nl": 20,
    "bf16": 30,
}
# What GPU libraries and OpenMP are steered by; nothing else of the server's environment reaches a worker.
_PASSED_ON = ("CUDA_", "GGML_", "GOMP_", "HIP_", "HSA_", "ROCR_", "VK_", "OMP_")
_SPINS = "1000"
_VERBOSITY = 2  # errors and warnings: above that llama.cpp tells of every request


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerOptions:
    """All that a worker is told. `unwritable` is an empty folder that it cannot write to.

    Without a folder for slots llama.cpp refuses to erase one; into this one it can never save any.
    """

    plan: LoadPlan
    model: Path
    mmproj: Path | None
    lora: Sequence[Path]
    chat_template: Path | None
    pooling: str
    embedding_only: bool
    cache_type_k: str
    cache_type_v: str
    gpu_layers: int
    threads: int
    batch_tokens: int
    cache_ram_mib: int
    unwritable: Path

    @property
    def http_threads(self) -> int:
        """llama.cpp needs a thread for every open connection, idle ones too."""
        return 2 * self.plan.slots + 16

    @property
    def pool_tokens(self) -> int:
        """Tokens of the shared context; vectors are made in one batch and need no more."""
        return self.plan.pool_tokens


def builtin_command(options: WorkerOptions, address: Address) -> list[str]:
    """The command line of worker.py."""
    parameters: dict[str, Any] = {
        "model.path": str(options.model),
        "model_alias": [options.plan.model],
        "hostnames": [address.host],
        "port": address.port,
        "api_keys": [address.key] if address.key else [],
        "n_ctx": options.pool_tokens,
        "kv_unified": True,
        "kv_unified_per_slot": options.plan.context_tokens,
        "n_parallel": options.plan.slots,
        "n_batch": options.batch_tokens,
        "n_ubatch": options.batch_tokens,
        "n_gpu_layers": options.gpu_layers,
        "n_threads_http": options.http_threads,
        "cache_type_k": _GGML_TYPE[options.cache_type_k],
        "cache_type_v": _GGML_TYPE[options.cache_type_v],
        "cache_ram_mib": options.cache_ram_mib,
        "cache_idle_slots": False,
        "slot_save_path": f"{options.unwritable}/",
        "endpoint_metrics": True,
        "endpoint_slots": True,
        "ui": False,
        "offline": True,
        "fit_params": options.gpu_layers != 0,
        "warmup": False,
        "verbosity": _VERBOSITY,
        "sse_ping_interval": 3600,
    }
    if options.threads:
        parameters["cpuparams.n_threads"] = options.threads
    if options.pooling or options.embedding_only:
        parameters["embedding"] = True
    if options.pooling:
        parameters["pooling_type"] = _POOLING[options.pooling]
    if options.mmproj:
        parameters["mmproj.path"] = str(options.mmproj)
    if options.lora:
        parameters["lora_adapters"] = [str(path) for path in options.lora]
    if options.chat_template:
        parameters["chat_template"] = options.chat_template.read_text("utf-8")
    return [sys.executable, "-I", str(_WORKER), json.dumps(parameters)]


def program_command(
    options: WorkerOptions, address: Address, program: Path, known: frozenset[str]
) -> list[str]:
    """The command line of a llama-server. `known` are the flags that its --help names.

    Raises LoadFailed where a flag is missing that Allod cannot do without.
    """
    arguments: list[tuple[str, str | None]] = [
        ("--model", str(options.model)),
        ("--alias", options.plan.model),
        ("--host", address.host),
        ("--ctx-size", str(options.pool_tokens)),
        ("--kv-unified", None),
        ("--kv-unified-per-slot", str(options.plan.context_tokens)),
        ("--parallel", str(options.plan.slots)),
        ("--batch-size", str(options.batch_tokens)),
        ("--ubatch-size", str(options.batch_tokens)),
        ("--threads-http", str(options.http_threads)),
        ("--cache-type-k", options.cache_type_k),
        ("--cache-type-v", options.cache_type_v),
        ("--cache-ram", str(options.cache_ram_mib)),
        ("--no-cache-idle-slots", None),
        ("--slot-save-path", f"{options.unwritable}/"),
        ("--metrics", None),
        ("--slots", None),
        ("--no-webui", None),
        ("--offline", None),
        ("--no-warmup", None),
        ("--jinja", None),
        ("--verbosity", str(_VERBOSITY)),
    ]
    if options.gpu_layers >= 0:
        arguments.append(("--gpu-layers", str(options.gpu_layers)))
    if (
        options.gpu_layers == 0
    ):  # then there is nothing to fit, and a vocabulary need not be read twice for it
        arguments.append(("--fit", "off"))
    if address.port:
        arguments.append(("--port", str(address.port)))
    if address.key:
        arguments.append(("--api-key", address.key))
    if options.threads:
        arguments.append(("--threads", str(options.threads)))
    if options.embedding_only or options.pooling:
        arguments.append(("--embeddings", None))
    if options.pooling:
        arguments.append(("--pooling", options.pooling))
    if options.mmproj:
        arguments.append(("--mmproj", str(options.mmproj)))
    if options.chat_template:
        arguments.append(("--chat-template-file", str(options.chat_template)))
    arguments += [("--lora", str(path)) for path in options.lora]
    missing = sorted({flag for flag, _ in arguments} - known - _OPTIONAL_FLAGS)
    if missing:
        raise LoadFailed(
            f"{program} does not know {', '.join(missing)}.",
            fix="Use a newer llama-server, or leave llamacpp.binary empty.",
        )
    return [
        str(program),
        *(word for flag, value in arguments if flag in known for word in _words(flag, value)),
    ]


# Flags that only make things better: a version without them works too.
_OPTIONAL_FLAGS = frozenset(
    {
        "--no-cache-idle-slots",
        "--kv-unified-per-slot",
        "--no-warmup",
        "--offline",
        "--slots",
        "--no-webui",
        "--fit",
    }
)
_FLAG = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]*")


async def known_flags(processes: Processes, program: Path) -> frozenset[str]:
    """All flags that a llama-server's --help names. Raises LoadFailed where it is no such program."""
    found = frozenset(_FLAG.findall(await processes.run([str(program), "--help"], timeout_s=30)))
    if "--model" not in found:
        raise LoadFailed(f"{program} is no llama-server: its --help does not name --model.")
    return found


def _words(flag: str, value: str | None) -> list[str]:
    return [flag] if value is None else [flag, value]


def worker_environment() -> dict[str, str]:
    """What a worker's environment holds beside the system's own few names."""
    passed = {name: value for name, value in os.environ.items() if name.startswith(_PASSED_ON)}
    if "OMP_WAIT_POLICY" in passed or not _pauses_long():
        return passed
    return {"GOMP_SPINCOUNT": _SPINS} | passed


def _pauses_long() -> bool:
    """Whether a turn of libgomp's waiting loop takes long enough for `_SPINS` of them to bridge a usual wait.

    Its own 300,000 are milliseconds: where any other program needs a core too, all threads burn theirs waiting for
    the one that shares, and a fortieth of the speed is left (docs/adr/0007). The loop's PAUSE takes 40 to 140 cycles
    on what knows xsavec (Intel since Skylake, AMD since Zen) and 10 or fewer elsewhere, where 1000 would be too few.
    """
    try:
        with Path("/proc/cpuinfo").open(encoding="ascii", errors="replace") as file:
            return "xsavec" in file.read(8192).split()
    except OSError:  # not on Linux, nor is libgomp
        return False
