"""Public networks by name, with defaults: which export right, with which axes, beside both plain exporters.

    python benchmarks/public_networks.py [WORDS ...] [--plain] [--output record.json] [--again ours,dynamo,torchscript]
    python benchmarks/public_networks.py --merge other.json ... --output record.json

Each network is exported in a process of its own, as ``attn_deploy.export(NAME)`` does it. The file is then compared with a
fresh model of the same weights at batches and sizes of this script's own, which the exporter has not seen. With
``--plain`` the same model goes through ``torch.onnx.export``, with ``dynamo=True`` and with ``dynamo=False``, with all
axes, then with those that ours moves, then with the batch alone, then with none, until a file is right; and the right files
are timed against each other. WORDS choose the networks whose names hold one of them, as regular expressions; a whole name
that is not in the list is taken too.

The record is written after each network; what it has already is not done again, unless ``--again`` names the exporter.
``--merge`` adds the rows of other records, and leaves alone what they do not have.

The packages are timm, torchvision, transformers, segmentation-models-pytorch and ultralytics: ``pip install --no-deps``
where their pins would bring another torch. A network whose package is not installed is counted as absent.

Exits with 1 when a file is wrong, or when plain exports right what ours refuses.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from network_attempts import EXPORTERS, Job, attempt, latency
from network_names import NETWORKS
from network_records import OURS, Attempt, Record, Row, lines_of, summary

from attn_deploy.machine.environment import describe_environment

_PRELOADED = [
    "torch.onnx",
    "torch.export",
    "torch._dynamo",
    "onnxscript",
    "onnxruntime",
    "network_attempts",
    "attn_deploy",
]


def _child(function: Callable[..., Any], arguments: tuple[Any, ...], answer: Any) -> None:
    answer.send(function(*arguments))


def in_process(function: Callable[..., Any], arguments: tuple[Any, ...], timeout: float) -> Any:
    """A function's result, from a process of its own.

    Raises:
        TimeoutError: if it has none in time.
        EOFError: if the process died.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_child, args=(function, arguments, sender))
    child.start()
    sender.close()
    try:
        if not receiver.poll(timeout):
            raise TimeoutError
        return receiver.recv()
    finally:
        child.kill()
        child.join()


def attempted(job: Job, timeout: float) -> Attempt:
    """One exporter on one network; a process that dies or does not end is a refusal."""
    try:
        made: Attempt = in_process(attempt, (job,), timeout)
    except TimeoutError:
        return Attempt("refused", reason=f"no end in {timeout:.0f} s", load=os.getloadavg()[0])
    except EOFError:
        return Attempt("refused", reason="the process died", load=os.getloadavg()[0])
    return made


def row_of(known: Row, exporters: Sequence[str], again: Sequence[str], timeout: float, quick: bool) -> Row:
    """The row with what is missing of it."""
    with tempfile.TemporaryDirectory(prefix="attn-deploy-") as folder:
        attempts = dict(known.attempts)
        files: dict[str, Path] = {}
        for exporter in exporters:
            if exporter in attempts and exporter not in again:
                continue
            path = Path(folder, exporter, "net.onnx")
            path.parent.mkdir()
            attempts[exporter] = attempted(Job(exporter, known.name, path, attempts.get(OURS)), timeout)
            if attempts[exporter].right:
                files[exporter] = path
            elif exporter == OURS and attempts[exporter].outcome == "absent":
                break
            else:
                shutil.rmtree(path.parent)
        row = replace(known, attempts={e: attempts[e] for e in EXPORTERS if e in attempts})
        if len(files) > 1 and OURS in files:
            try:
                row = replace(row, latency=in_process(latency, (known.name, files, quick), timeout))
            except (TimeoutError, EOFError):
                print(f"{known.name}: not timed", file=sys.stderr)
        return row


def complete(row: Row, exporters: Sequence[str], again: Sequence[str]) -> bool:
    """Whether there is nothing left to do."""
    ours = row.attempts.get(OURS)
    return (ours is not None and ours.outcome == "absent" and not again) or (
        not again and all(e in row.attempts for e in exporters)
    )


def chosen(words: Sequence[str]) -> list[str]:
    """The networks that words choose: those of the list whose names hold one, and whole names that are not in it."""
    names = [n for n in NETWORKS if not words or any(re.search(w, n) for w in words)]
    return names + [w for w in words if ":" in w and not any(re.search(w, n) for n in NETWORKS)]


def main() -> int:
    """Run, print the table, and keep the record."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("words", nargs="*")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--plain", action="store_true")
    parser.add_argument("--again", default="", help="exporters whose attempts are made anew, with commas")
    parser.add_argument("--merge", nargs="*", type=Path, default=[])
    parser.add_argument("--whole", action="store_true", help="a network of the list without a row is a failure")
    parser.add_argument("--timeout", type=float, default=1800.0, help="wall seconds of one attempt")
    parser.add_argument("--quick", action="store_true", help="fewer samples of each file")
    parser.add_argument("--list", action="store_true")
    options = parser.parse_args()
    names = chosen(options.words)
    if options.list:
        print("\n".join(names))
        return 0
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    exporters = EXPORTERS if options.plain else (OURS,)
    again = [e for e in options.again.split(",") if e]
    record = Record.read(options.output) if options.output else Record()
    for path in options.merge:
        record = record.merged(Record.read(path))
    record = record if record.environment is not None else replace(record, environment=describe_environment())
    for name in [] if options.merge else names:
        row = record.rows.get(name, Row(name))
        if complete(row, exporters, again):
            continue
        started = time.monotonic()
        row = row_of(row, exporters, again, options.timeout, options.quick)
        if options.output:  # another run may have added rows since
            record = replace(Record.read(options.output), environment=record.environment)
        record = record.with_row(row)
        for cells in lines_of(row):
            print("  ".join(cells), file=sys.stderr, flush=True)
        print(f"  {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
        if options.output:
            record.write(options.output)
    if options.output and options.merge:
        record.write(options.output)
    rows = [record.rows[n] for n in (record.rows if options.merge else names) if n in record.rows]
    print(summary(rows))
    wrong = any(a.outcome == "wrong" for r in rows for e, a in r.attempts.items() if e == OURS)
    missing = [n for n in NETWORKS if n not in record.rows] if options.whole else []
    if missing:
        print(f"Without a row: {', '.join(missing)}.")
    return int(wrong or bool(missing) or any(r.lost for r in rows))


if __name__ == "__main__":
    raise SystemExit(main())
