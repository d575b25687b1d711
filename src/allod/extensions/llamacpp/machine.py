"""What this machine has for running models: the engine, its processor features, GPUs, the models found."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence

from allod.extensions.llamacpp.command import known_flags
from allod.extensions.llamacpp.engine import LlamaCppEngine
from allod.extensions.llamacpp.settings import LlamaCppSettings
from allod.sdk.context import Context
from allod.sdk.errors import AllodError
from allod.sdk.extension import Check

_ASK_ENGINE = (
    "import xllamacpp as x; print(x.get_system_info()); "
    "[print('device', d['name'], d['description'], d['memory_total']) for d in x.get_device_info()]"
)
_FEATURE = re.compile(r"(\w+) = 1")
_GIB = 1 << 30


async def examine(context: Context[LlamaCppSettings], engine: LlamaCppEngine) -> Sequence[Check]:
    """All checks."""
    return [await _engine(context), *await _devices(context), *await _models(engine)]


async def _engine(context: Context[LlamaCppSettings]) -> Check:
    program = context.settings.binary
    if program is None:
        return Check("engine", "ok", "llama.cpp, built in (xllamacpp)")
    try:
        await known_flags(context.processes, program)
    except AllodError as error:
        return Check("engine", "fail", error.detail, error.fix or "Correct llamacpp.binary.")
    return Check("engine", "ok", f"{program}; unlike the built-in engine, it does not hide its memory")


async def _devices(context: Context[LlamaCppSettings]) -> Sequence[Check]:
    """Asked of the library in a short process: loading it here would cost the server 100 MB."""
    try:
        printed = await context.processes.run([sys.executable, "-I", "-c", _ASK_ENGINE], timeout_s=30)
    except AllodError as error:
        return [Check("processor", "fail", error.detail, "Reinstall: make setup")]
    features = sorted(set(_FEATURE.findall(printed)))
    checks = [Check("processor", "ok", f"llama.cpp uses {', '.join(features)}")]
    if "AVX2" not in features and "NEON" not in features:
        checks = [Check("processor", "warn", f"only {', '.join(features)}", "Models will be slow here.")]
    devices = [line.split() for line in printed.splitlines() if line.startswith("device ")]
    gpus = [words for words in devices if words[1] != "CPU"]
    for words in gpus:
        memory = int(words[-1]) / _GIB
        checks.append(Check("GPU", "ok", f"{' '.join(words[1:-1])}, {memory:.1f} GiB"))
    if not gpus:
        fix = "For a GPU, set llamacpp.binary to a llama-server built for it (CUDA, ROCm, Vulkan, Metal)."
        checks.append(Check("GPU", "ok", "none that this build of llama.cpp can use", fix))
    return checks


async def _models(engine: LlamaCppEngine) -> Sequence[Check]:
    cards = await engine.models()
    good = [card.id for card in cards if not card.problem]
    checks = [
        Check(f"model {card.id}", "warn", card.problem, "Replace the file, or remove it.")
        for card in cards
        if card.problem
    ]
    if not good:
        checks.append(Check("models", "fail", "there is none", "Run: allod models add PATH"))
    else:
        checks.append(Check("models", "ok", f"{len(good)}: {', '.join(good[:5])}"))
    return checks
