"""`make bench`, or `.venv/bin/python -m bench`: measure, print a table, write JSON."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from allod import __version__
from bench.figures import Figure, table
from bench.measures import MEASURES, Setting

_RESULTS = Path(__file__).with_name("results")


def main() -> int:
    """Measure. 0, whether the goals are met or not."""
    options = _options()
    about = machine()
    print(_line(about), file=sys.stderr)
    figures: list[Figure] = []
    began = time.time()
    for name in options.only or MEASURES:
        with tempfile.TemporaryDirectory(prefix="allod-bench-") as folder:
            for figure in MEASURES[name](Setting(Path(folder), options.quick)):
                figures.append(figure)
                print(f"  {figure.name}: {figure.value:.4g} {figure.unit}", file=sys.stderr)
    about |= {"took_s": round(time.time() - began), "load_average_after": os.getloadavg()[0]}
    print(table(figures))
    path = options.json or _RESULTS / f"{time.strftime('%Y-%m-%d-%H%M%S')}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    told = {"machine": about, "figures": [figure.as_dict() for figure in figures]}
    path.write_text(json.dumps(told, indent=2, ensure_ascii=False) + "\n", "utf-8")
    print(f"\nwritten to {path}", file=sys.stderr)
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few samples: proves that it runs, no more")
    parser.add_argument("--only", action="append", choices=MEASURES, help="only this one; may be repeated")
    parser.add_argument("--json", type=Path, metavar="PATH", help="where to write; default: bench/results/")
    return parser.parse_args()


def machine() -> dict[str, Any]:
    """What was measured on, and how busy it was before."""
    return {
        "allod": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cores": len(os.sched_getaffinity(0)),
        "load_average_before": os.getloadavg()[0],
        "began": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def _line(about: dict[str, Any]) -> str:
    busy = about["load_average_before"]
    warning = "" if busy < 0.3 * about["cores"] else "  (busy: take no absolute number from this run)"
    return f"{about['system']}, {about['cores']} cores, Python {about['python']}, load {busy:.2f}{warning}"


if __name__ == "__main__":
    sys.exit(main())
