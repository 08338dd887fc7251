"""Commands that are killed at a random moment: what was there stays, nothing lives on, and the next run ends the same.

    python benchmarks/kills.py [--count 100] [--seed 0] [--only export] [--save FILE.json]

Each kill starts a command over an older output, ends it with SIGKILL, SIGTERM, SIGINT or SIGHUP at a moment drawn from the
time that it takes, and then checks: the exit code is the signal's; the old output is intact or the new one is whole;
nothing is half-written; no process of it lives on after 2 seconds; the next run (with --resume where there is one) ends
with 0 and as a run that nobody killed does; and no temporary file is left after it. The exit code is 1 if any of that does
not hold.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import hashlib
import json
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
CHECKS = ("exit code", "output", "orphans", "next run", "same end", "temporary files")
NET = """
from torch import nn
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.head = nn.Linear(8, 10)
    def forward(self, x):
        return self.head(self.conv(x).relu().mean((2, 3)))
"""


@dataclass(frozen=True)
class Scenario:
    """A command, how it is run again after a kill, and what it makes."""

    first: tuple[str, ...]
    again: tuple[str, ...]
    output: str

    def result(self, folder: Path) -> str:
        """What must be the same after a kill as without one; empty where there is nothing whole."""
        path = folder / self.output
        if not path.exists():
            return ""
        if path.suffix == ".engine":  # two builds need not be the same to the bit
            sidecar = path.with_name(path.name + ".json")
            named = json.loads(sidecar.read_text())["sha256"] if sidecar.exists() else ""
            return "whole" if hashlib.sha256(path.read_bytes()).hexdigest() == named else "broken"
        if path.name == "manifest.json":
            files = json.loads(path.read_text())["files"]
            sound = all(
                hashlib.sha256((path.parent / n).read_bytes()).hexdigest() == f["sha256"] for n, f in files.items()
            )
            return f"{sorted(files)}" if sound else "broken"
        if path.name == "record.json":  # a matrix or a profile: what was found, and not when
            data = json.loads(path.read_text())
            rows = data.get("cells") or [[r["runtime"], r["batch"], r["status"]] for r in data["rows"]]
            return json.dumps(
                [[c["model"], c["opset"], c["checks"][0][:2]] if isinstance(c, dict) else c for c in rows]
            )
        return hashlib.sha256(path.read_bytes()).hexdigest()


PROFILE = ("--runtimes", "eager,ort-cpu", "--seconds", "0.1", "--batch", "1,2", "--threads", "1", "--save", "run")
MATRIX = ("--models", "se,eca", "--opsets", "17,18", "--exporters", "torchscript", "--runtimes", "ort", "--jobs", "1")
PIPELINE = """
model = "resnet8+se"
output = "run"
[export]
[profile]
seconds = 0.02
runtime = "ort-cpu"
[package]
"""
TRAIN = ("train", "net.py:Net", "--dataset", "digits", "--epochs", "2", "--threads", "1", "-o", "run")
SCENARIOS = {
    "export": Scenario(
        ("export", "eca", "--force", "-o", "m.onnx"), ("export", "eca", "--force", "-o", "m.onnx"), "m.onnx"
    ),
    "convert": Scenario(
        ("convert", "source.onnx", "--precision", "fp16", "-o", "m.onnx"),
        ("convert", "source.onnx", "--precision", "fp16", "-o", "m.onnx"),
        "m.onnx",
    ),
    "quantize": Scenario(
        *[("quantize", "source.onnx", "--size", "32", "-o", "m.onnx", "--method", "minmax")] * 2, "m.onnx"
    ),
    "simplify": Scenario(*[("simplify", "source.onnx", "-o", "m.onnx")] * 2, "m.onnx"),
    "build": Scenario(
        *[("build", "source.onnx", "--target", "sm86", "--force", "--input", "1x3x32x32", "-o", "m.engine")] * 2,
        "m.engine",
    ),
    "package": Scenario(*[("package", "source.onnx", "-o", "run")] * 2, "run/manifest.json"),
    "deploy": Scenario(*[("deploy", "deploy.toml")] * 2, "run/package/manifest.json"),
    "train": Scenario(TRAIN, (*TRAIN, "--resume"), "run/model.safetensors"),
    "matrix": Scenario(
        ("matrix", *MATRIX, "-o", "run"), ("matrix", "--resume", "run", "--jobs", "1"), "run/record.json"
    ),
    "profile": Scenario(("profile", "se", *PROFILE), ("profile", "se", *PROFILE, "--resume"), "run/record.json"),
}
OLD = b"the old output"


def start(words: tuple[str, ...], folder: Path) -> subprocess.Popen[bytes]:
    """The command as a process of its own, with a folder of its own for temporary files."""
    temporary = folder / "tmp"
    temporary.mkdir(exist_ok=True)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(temporary), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "attn_deploy", *words],
        cwd=folder,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def family(pid: int) -> set[int]:
    """The descendants of a process."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            children.setdefault(int(stat.read_text().rpartition(")")[2].split()[1]), []).append(int(stat.parent.name))
    members: set[int] = set()
    left = [pid]
    while left:
        new = children.get(left.pop(), [])
        members |= set(new)
        left += new
    return members


def takes_signals(pid: int) -> bool:
    """Whether the program has the say over SIGTERM yet: before, the system ends whatever is started with it."""
    with contextlib.suppress(OSError, StopIteration):
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        blocked = int(next(line for line in lines if line.startswith("SigBlk:")).split()[1], 16)
        return bool(blocked >> (signal.SIGTERM - 1) & 1)
    return False


def lives(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def prepare(name: str, source: bytes) -> Path:
    """A folder with the inputs of a scenario and an older output."""
    folder = Path(tempfile.mkdtemp(prefix="kills-"))
    (folder / "net.py").write_text(NET)
    (folder / "source.onnx").write_bytes(source)
    (folder / "deploy.toml").write_text(PIPELINE)
    if SCENARIOS[name].output.startswith("m."):
        (folder / SCENARIOS[name].output).write_bytes(OLD)
    return folder


def whole(name: str, source: bytes) -> tuple[float, str]:
    """How long a scenario takes, and what it ends with."""
    folder = prepare(name, source)
    began = time.monotonic()
    process = start(SCENARIOS[name].first, folder)
    _, said = process.communicate()
    if process.returncode not in (0, 1):
        raise SystemExit(f"{name} does not run: {said.decode()[-500:]}")
    result = SCENARIOS[name].result(folder)
    shutil.rmtree(folder)
    return time.monotonic() - began, result


def kill(name: str, source: bytes, seconds: float, expected: str, chance: random.Random) -> dict[str, str]:
    """One kill; the checks that did not hold, with what was there."""
    scenario, faults = SCENARIOS[name], {}
    folder = prepare(name, source)
    kind = chance.choice(SIGNALS)
    process = start(scenario.first, folder)
    time.sleep(chance.random() * seconds)
    before_it_was_ours = not takes_signals(process.pid)
    members = family(process.pid)
    process.send_signal(kind)
    said = process.communicate()[1].decode(errors="replace")
    end = time.monotonic() + 2
    while any(map(lives, members)) and time.monotonic() < end:
        time.sleep(0.02)
    alive = [pid for pid in members if lives(pid)]
    if alive:
        faults["orphans"] = f"{len(alive)} after 2 s"
        for pid in alive:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
    if "Traceback" in said:
        faults["output"] = said[-300:]
    right = (0, 1, -kind) if kind == signal.SIGKILL else (0, 1, 128 + kind)
    if process.returncode not in right and not before_it_was_ours:
        faults["exit code"] = f"{process.returncode}: {said[-200:]}"
    if scenario.output.startswith("m."):
        content = (folder / scenario.output).read_bytes()
        if content != OLD and scenario.result(folder) != expected:
            faults["output"] = f"{len(content)} bytes that are neither the old nor the new output"
    odd = [str(p.relative_to(folder)) for p in folder.rglob("*") if p.suffix == ".json" and not readable(p)]
    if odd:
        faults["output"] = f"half-written: {odd}"
    words = scenario.again
    if not any((folder / "run" / n).exists() for n in ("record.json", "options.json", "plan.json")):
        words = scenario.first  # killed before there was a run
    if name == "package" and scenario.result(folder):
        shutil.rmtree(folder / "run")  # it was whole: a package is not made over another
    again = start(words, folder)
    said = again.communicate()[1].decode(errors="replace")
    if again.returncode not in (0, 1):
        faults["next run"] = f"exit {again.returncode}: {said.strip()[-300:]}"
    elif scenario.result(folder) != expected:
        faults["same end"] = "another result than without the kill"
    left = [str(p.relative_to(folder)) for p in folder.rglob(".attn-deploy-*")]
    left += [str(p) for p in (folder / "tmp").iterdir() if "attn-deploy" in p.name]
    if left:
        faults["temporary files"] = ", ".join(left[:3])
    shutil.rmtree(folder)
    return {check: f"{kind.name}: {text}" for check, text in faults.items()}


def readable(path: Path) -> bool:
    """Whether a JSON file is whole."""
    try:
        json.loads(path.read_text())
    except ValueError:
        return False
    return True


def main() -> int:
    """Run the kills and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=list(SCENARIOS))
    parser.add_argument("--save", type=Path, help="write the table as JSON")
    options = parser.parse_args()
    chance = random.Random(options.seed)
    began, load = time.monotonic(), os.getloadavg()[0]
    folder = prepare("export", b"")
    start(("export", "resnet8", "--force", "-o", "source.onnx"), folder).communicate()
    source = (folder / "source.onnx").read_bytes()
    shutil.rmtree(folder)
    names = [options.only] if options.only else list(SCENARIOS)
    bases = {name: whole(name, source) for name in names}
    table: dict[str, collections.Counter[str]] = {name: collections.Counter() for name in names}
    for number in range(options.count):
        name = names[number % len(names)]
        table[name]["kills"] += 1
        for check, text in kill(name, source, *bases[name], chance).items():
            table[name][check] += 1
            print(f"{name}, kill {number}: {check}: {text}", flush=True)
    print(f"\n{'':10}{'kills':>8}{'seconds':>9}" + "".join(f"{c:>17}" for c in CHECKS))
    for name, counts in table.items():
        faults = "".join(f"{counts[c]:>17}" for c in CHECKS)
        print(f"{name:10}{counts['kills']:>8}{bases[name][0]:>9.1f}{faults}")
    if options.save:
        data = {
            "seed": options.seed,
            "seconds": round(time.monotonic() - began),
            "load": [load, os.getloadavg()[0]],
            "python": platform.python_version(),
            "machine": platform.machine(),
            "scenarios": {
                name: {"kills": row["kills"], "seconds": round(bases[name][0], 1), **{c: row[c] for c in CHECKS}}
                for name, row in table.items()
            },
        }
        options.save.write_text(json.dumps(data, indent=1) + "\n")
    return 1 if any(counts[c] for counts in table.values() for c in CHECKS) else 0


if __name__ == "__main__":
    sys.exit(main())
