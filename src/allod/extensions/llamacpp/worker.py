"""A process of its own that runs one model: llama.cpp's HTTP server, inside this interpreter, on one unix socket.

Started as `python -I worker.py PARAMETERS`, where PARAMETERS is a JSON object of names of llama.cpp's common_params
(a dot reaches into a part: "model.path"). Imports nothing of Allod's server, so that it starts at once.
"""

import ctypes
import json
import os
import sys
import threading
from typing import Any

_PR_SET_DUMPABLE = 4


def _hide_memory() -> None:
    """No other process of this user may read this one's memory. exec resets this, so it is done here."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def _end_with_parent() -> None:
    """Where the system has no death signal, the end of stdin says that the server has gone."""
    while os.read(0, 4096):  # not sys.stdin: its lock would stand in the way of a normal exit
        pass
    os._exit(0)


def _as_llama(xllamacpp: Any, field: str, value: Any) -> Any:
    """A value in the type that the binding takes."""
    if field == "model_alias":
        return set(value)
    if field in ("cache_type_k", "cache_type_v"):
        return xllamacpp.ggml_type(value)
    if field == "pooling_type":
        return xllamacpp.llama_pooling_type(value)
    if field == "lora_adapters":
        adapters = []
        for path in value:
            adapter = xllamacpp.CommonAdapterLoraInfo()
            adapter.path, adapter.scale = path, 1.0
            adapters.append(adapter)
        return adapters
    return value


def main() -> None:
    """Serve until killed."""
    _hide_memory()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    import xllamacpp

    params = xllamacpp.CommonParams()
    for name, value in json.loads(sys.argv[1]).items():
        target = params
        *parts, field = name.split(".")
        for part in parts:
            target = getattr(target, part)
        setattr(target, field, _as_llama(xllamacpp, field, value))
    server = xllamacpp.Server(params)
    threading.Event().wait()
    del server  # kept alive until here: its end stops the service


if __name__ == "__main__":
    main()
