"""python -m benchmarks: run every benchmark here, one after the other, each in a process of its own."""

import subprocess
import sys
from pathlib import Path

from benchmarks.measure import RESULTS

if __name__ == "__main__":
    here = Path(__file__).parent
    RESULTS.unlink(missing_ok=True)
    names = sorted(path.stem for path in here.glob("*.py") if not path.stem.startswith("_"))
    failed = []
    for name in names:
        if name != "measure":
            print(f"## {name}\n", flush=True)
            if subprocess.run([sys.executable, here / f"{name}.py"]).returncode:
                failed.append(name)
    print(f"Written to {RESULTS}")
    sys.exit(f"failed: {', '.join(failed)}" if failed else 0)
