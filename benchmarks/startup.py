"""Time of `attn-deploy --help` and `attn-deploy list` as whole processes: median of five after one warm-up.

    python benchmarks/startup.py [other command ...]

Other commands, such as ``polygraphy --help``, are timed in turn with ours, so that a busy machine is busy for all.
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

RUNS = 5
LIMIT_SECONDS = 0.2


def seconds(command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - started


def main() -> int:
    ours = Path(sys.executable).with_name("attn-deploy")
    commands = [[str(ours), "--help"], [str(ours), "list"], [sys.executable, "-c", "pass"]]
    commands += [c.split() for c in sys.argv[1:] if shutil.which(c.split()[0])]
    for command in commands:
        seconds(command)
    samples: list[list[float]] = [[] for _ in commands]
    for _ in range(RUNS):
        for index, command in enumerate(commands):
            samples[index].append(seconds(command))
    slow = 0
    for command, times in zip(commands, samples, strict=True):
        name = " ".join([Path(command[0]).name, *command[1:]])
        median = statistics.median(times)
        slow += command[0] == str(ours) and median >= LIMIT_SECONDS
        print(f"{name:<24} median {median:.3f} s  (min {min(times):.3f}, max {max(times):.3f})")
    imports = subprocess.run(
        [sys.executable, "-X", "importtime", str(ours), "list"], capture_output=True, text=True, check=True
    ).stderr
    torch = any(line.split("|")[-1].strip() == "torch" for line in imports.splitlines())
    print(f"torch imported by list: {'yes' if torch else 'no'}")
    return 1 if slow or torch else 0


if __name__ == "__main__":
    raise SystemExit(main())
