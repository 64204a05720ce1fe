"""How long commands take to start, against importing what they cannot do without.

    python benchmarks/startup.py --rounds 15

`inspect` of a file with a vocabulary of 150,000 tokens against `import numpy`, and `--help`
against `import click`. The four take turns; figures are medians of processor seconds (user and
system), which a busy machine disturbs least.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests._shapes import small, write_shapes

#: What each command is compared with, and the ratio that is aimed at.
GOALS = {"inspect": ("import numpy", 2.0), "--help": ("import click", 2.5)}


def seconds(*arguments: str) -> float:
    """Processor seconds of a Python process."""
    with subprocess.Popen(
        [sys.executable, *arguments],
        stdout=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(arguments)} failed")
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--tokens", type=int, default=150_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ggsurgery-bench-") as folder:
        tokens = [f"token{i}" for i in range(arguments.tokens)]
        path = write_shapes(Path(folder) / "big.gguf", small("Small", 4), tokens=tokens, seed=1)
        runs = {
            "inspect": ("-m", "ggsurgery", "inspect", str(path)),
            "import numpy": ("-c", "import numpy"),
            "--help": ("-m", "ggsurgery", "--help"),
            "import click": ("-c", "import click"),
        }
        taken: dict[str, list[float]] = {name: [] for name in runs}
        for number in range(arguments.rounds + 1):
            for name, command in runs.items():
                spent = seconds(*command)
                if number:  # the first one warms the file cache
                    taken[name].append(spent)
    medians = {name: statistics.median(values) for name, values in taken.items()}
    ratios = {name: medians[name] / medians[peer] for name, (peer, _) in GOALS.items()}
    print(json.dumps({"seconds": medians, "ratios": ratios, "rounds": arguments.rounds}, indent=2))
    missed = [name for name, (_, goal) in GOALS.items() if ratios[name] > goal]
    sys.exit(f"above the goal: {', '.join(missed)}" if missed else 0)


if __name__ == "__main__":
    main()
