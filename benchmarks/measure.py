"""What the benchmarks share: CPU time of one thread, peak memory, and a table that says what was aimed at.

CPU time and not wall time: it says the same on a busy machine. All of it is one thread's: importing this module keeps
PyTorch to one.
"""

import json
import multiprocessing
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

torch.set_num_threads(1)

RESULTS = Path(__file__).with_name("results.json")


def cpu_ms(function: Callable[[], object], repeats: int = 7, warm: bool = True) -> float:
    """Median CPU milliseconds of a call."""
    if warm:
        function()
    times = []
    for _ in range(repeats):
        start = time.process_time()
        function()
        times.append(time.process_time() - start)
    return 1000 * statistics.median(times)


def peak_mib(prepare: Callable[..., Callable[[], object]], *args: Any) -> float:
    """MiB that the call `prepare(*args)()` needs beyond what its inputs take, in a fresh process (Linux)."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_growth, (prepare, args))


def _growth(prepare: Callable[..., Callable[[], object]], args: tuple[Any, ...]) -> float:
    call = prepare(*args)
    before = _resident("VmRSS")
    kept = call()
    grown = _resident("VmHWM") - before
    del kept
    return grown


def _resident(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))


def publish(name: str, tables: dict[str, list[dict[str, Any]]], packages: Sequence[str]) -> None:
    """Print the tables (title → rows, all with the same columns) as markdown and add them to results.json."""
    setting = {
        "python": platform.python_version(),
        **{package: version(package) for package in packages},
        "threads": torch.get_num_threads(),
        "cpu": _cpu(),
    }
    for title, rows in tables.items():
        print(f"### {title}\n")
        print("| " + " | ".join(rows[0]) + " |")
        print("|" + "---|" * len(rows[0]))
        for row in rows:
            print("| " + " | ".join(_written(value) for value in row.values()) + " |")
        print()
    print("; ".join(f"{key} {value}" for key, value in setting.items()) + "\n", flush=True)
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    results[name] = {"setting": setting, "tables": tables}
    RESULTS.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")


def at_least(value: float, target: float) -> dict[str, Any]:
    """The last two columns of a row: what was aimed at, and whether it was reached."""
    return {"target": f"≥ {target:g}", "met": value >= target}


def at_most(value: float, target: float) -> dict[str, Any]:
    return {"target": f"≤ {target:g}", "met": value <= target}


def _written(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "NO"
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return str(value)


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
