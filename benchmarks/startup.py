"""How long the command line takes to answer when no tensor is needed, and that it does not import torch for that."""

import resource
import statistics
import subprocess
import sys
import time
from typing import Any

from measure import publish

LIMIT = 700  # milliseconds that still feel like an answer
REPEATS = 7

HEAVY = ["torch", "lightning", "hydra", "numpy"]


def took(words: list[str]) -> tuple[float, float]:
    """Median wall and CPU milliseconds of a fresh process."""
    walls, cpus = [], []
    for _ in range(REPEATS):
        start, used = time.perf_counter(), children()
        subprocess.run([sys.executable, "-m", "sightword.cli", *words], check=True, stdout=subprocess.DEVNULL)
        walls.append(time.perf_counter() - start)
        cpus.append(children() - used)
    return 1000 * statistics.median(walls), 1000 * statistics.median(cpus)


def children() -> float:
    """CPU seconds of all processes that ended so far."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def imports(words: list[str]) -> list[str]:
    """Which of the heavy packages the command imports."""
    code = (
        "import sys; from sightword.cli.main import main; main(sys.argv[1:]);"
        f"print(*[name for name in {HEAVY} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], check=True, capture_output=True, text=True)
    return done.stderr.split()


def rows() -> list[dict[str, Any]]:
    table = []
    for words in (["--help"], ["list"]):
        wall, cpu = took(words)
        heavy = imports(words)
        table.append(
            {
                "command": "sightword " + " ".join(words),
                "wall ms": wall,
                "CPU ms": cpu,
                "imports": ", ".join(heavy) or f"none of {', '.join(HEAVY)}",
                "target": f"≤ {LIMIT} ms wall, no torch",
                "met": wall <= LIMIT and "torch" not in heavy,
            }
        )
    return table


if __name__ == "__main__":
    publish("startup", {"Start-up": rows()}, ["sightword"])
