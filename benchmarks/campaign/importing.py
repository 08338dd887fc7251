"""A campaign's records become files of the repository: profiles of the device, their page, and rows of the README.

    INTO/profiles/DEVICE/campaign/*.json        the units' records, and the profiles that they kept
    INTO/profiles/DEVICE/campaign.md            a table for each step, made from them
    INTO/README.md                              the rows between the markers below

DEVICE is the GPU's name; that of a rehearsal is ``rehearsal``, so that no number of one can be taken for a GPU's. HTML is
rendered from the same records by `attn-deploy report` and not committed.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from attn_deploy.bench.record import ProfileRecord
from attn_deploy.comparison.collection import read_runs
from attn_deploy.comparison.overview import overview
from attn_deploy.errors import AttnDeployError
from attn_deploy.files import write_atomic
from attn_deploy.report.markdown import inline
from attn_deploy.report.profile.files import write_report
from campaign.units import say

BEGIN, END = "<!-- gpu campaign: rows made by benchmarks/gpu_campaign.py --import -->", "<!-- gpu campaign ends -->"
ORDER = ("environment", "latency", "training", "tensorrt", "ort")
TITLES = {
    "environment": "The machine",
    "latency": "PyTorch: eager, compile, CUDA graphs",
    "training": "Training by the recipe",
    "tensorrt": "TensorRT engines",
    "ort": "ONNX Runtime",
}


def import_campaign(source: Path, into: Path, *, rehearsed: bool) -> int:
    """Write the files; 0, or 2 with a line that says what stands in the way."""
    records = read_records(source)
    machine = next((r for r in records if r["step"] == "environment" and r["unit"] == "machine"), None)
    if machine is None or machine["status"] != "ok":
        say(f"{source} holds no record of its machine: run the step environment.")
        return 2
    gpus = machine["environment"]["gpus"]
    if not gpus and not rehearsed:
        say(f"{source} was made on a machine without a GPU; a rehearsal is imported with --rehearse.")
        return 2
    device = "rehearsal" if rehearsed else slug(gpus[0]["name"])
    folder = into / "profiles" / device / "campaign"
    folder.mkdir(parents=True, exist_ok=True)
    for record in records:
        write_atomic(folder / f"{record['step']}-{record['unit']}.json", json.dumps(record, indent=1) + "\n")
    profiles = _keep_profiles(source, folder / "profiles")
    title = gpus[0]["name"] if gpus else "a rehearsal on a CPU"
    write_atomic(folder.parent / "campaign.md", page(title, machine, records))
    if profiles:
        write_report(overview(read_runs([folder / "profiles"])), folder.parent / "profiles.md")
    _update_readme(into / "README.md", rows(title, device, records))
    say(
        f"{len(records)} records and {profiles} profiles are in {folder}; {folder.parent / 'campaign.md'} has their tables."
    )
    return 0


def read_records(source: Path) -> list[dict[str, Any]]:
    """The units' records, in the order of steps and names."""
    found = []
    for step in ORDER:
        for path in sorted((source / step).glob("*.json")):
            record = json.loads(path.read_text(encoding="utf-8"))
            if record.get("schema_version") != 1 or record.get("step") != step:
                raise ValueError(f"{path} is not a record of the step {step} that this version reads.")
            found.append(record)
    return found


def slug(name: str) -> str:
    """A folder's name from a GPU's: ``nvidia-h100-80gb-hbm3``."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _keep_profiles(source: Path, target: Path) -> int:
    """Copy the profiles that can be read; how many."""
    kept = 0
    for path in sorted((source / "profiles").glob("*.json")):
        try:
            ProfileRecord.read(path)
        except AttnDeployError as error:
            say(f"left out: {error}")
            continue
        target.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target / path.name)
        kept += 1
    return kept


def page(title: str, machine: Mapping[str, Any], records: Sequence[Mapping[str, Any]]) -> str:
    """The tables of a campaign."""
    environment = machine["environment"]
    packages = ", ".join(f"{k} {v}" for k, v in environment["packages"].items())
    lines = [f"# {inline(title)}", "", inline(machine["line"]) + ".", "", inline(packages) + ".", ""]
    for step in ORDER:
        own = [r for r in records if r["step"] == step and r["status"] == "ok"]
        if own:
            lines += [f"## {TITLES[step]}", "", *_TABLES[step](own), ""]
    failed = [r for r in records if r["status"] != "ok"]
    if failed:
        lines += ["## Without a number, and why", ""]
        lines += [f"- {r['step']}/{r['unit']}: {inline(str(r.get('reason', '')))}" for r in failed]
        lines.append("")
    return "\n".join(lines)


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    body = [f"| {' | '.join(map(inline, row))} |" for row in rows]
    return [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}", *body]


def _lines(records: Sequence[Mapping[str, Any]]) -> list[str]:
    return _table(("unit", "result", "s"), ((r["unit"], r["line"], f"{r['seconds']:.1f}") for r in records))


def _training(records: Sequence[Mapping[str, Any]]) -> list[str]:
    def row(r: Mapping[str, Any]) -> tuple[str, ...]:
        run = r["record"]
        test, recipe = run["test"], run["recipe"]
        seconds = sum(e["seconds"] for e in run["history"])
        return (
            run["model"], run["dataset"]["name"], str(run["seed"]), f"{test['top1']:.2%}", f"{seconds:.1f} s",
            str(recipe["epochs"]), run["arithmetic"], "yes" if run["compiled"] else "no",
        )  # fmt: skip

    heads = ("model", "data", "seed", "top-1", "training", "epochs", "arithmetic", "compiled")
    return _table(heads, map(row, records))


def _engines(records: Sequence[Mapping[str, Any]]) -> list[str]:
    def lines(r: Mapping[str, Any]) -> Iterable[tuple[str, ...]]:
        for row in r["rows"]:
            top1 = "" if r["accuracy"] is None else f"{r['accuracy']['top1']:.2%}"
            build = r["build"].get("build_seconds")
            yield (
                r["model"], r["precision"], str(row["batch"]), "yes" if row["cuda_graph"] else "no",
                f"{row['p50_ms']:.4f} ({row['low_ms']:.4f} - {row['high_ms']:.4f})", row["clock"], row["runtime"],
                f"{r['max_error']:.1e}", top1, "" if build is None else f"{build:.1f} s",
            )  # fmt: skip

    heads = ("model", "precision", "batch", "graph", "p50 ms (95 %)", "clock", "ran in", "error", "top-1", "build")
    return _table(heads, (line for r in records for line in lines(r)))


_TABLES = {"environment": _lines, "latency": _lines, "training": _training, "tensorrt": _engines, "ort": _lines}


def rows(title: str, device: str, records: Sequence[Mapping[str, Any]]) -> list[str]:
    """The README's rows: claim, figure, record."""
    link = f"[record](profiles/{device}/campaign.md)"
    made: list[tuple[str, str]] = []
    good = [r for r in records if r["status"] == "ok"]
    trained = [r["record"] for r in good if r["step"] == "training"]
    if trained:
        best = max(trained, key=lambda r: r["test"]["top1"])
        seconds = sum(e["seconds"] for e in best["history"])
        figure = f"{best['model']} {best['test']['top1']:.2%} in {seconds:.0f} s of training, seed {best['seed']}"
        made.append((f"{best['dataset']['name']} on {title}", figure))
    engines = [r for r in good if r["step"] == "tensorrt"]
    if engines:
        library = engines[0]["build"]["library"]
        made.append((f"engines on {title}", f"{len(engines)} built, compared and timed ({library})"))
    timed = [r for r in good if r["step"] == "latency"]
    if timed:
        made.append((f"PyTorch on {title}", f"{len(timed)} profiles with parity"))
    return [f"| {inline(claim)} | {inline(figure)} | {link} |" for claim, figure in made]


def _update_readme(path: Path, lines: Sequence[str]) -> None:
    """Replace what stands between the markers.

    Raises:
        ValueError: if they are not there.
    """
    text = path.read_text(encoding="utf-8")
    if BEGIN not in text or END not in text:
        raise ValueError(f"{path} lacks the markers {BEGIN} and {END}.")
    before, rest = text.split(BEGIN, 1)
    after = rest.split(END, 1)[1]
    block = ["", "| claim | figure | record |", "|---|---|---|", *lines, ""] if lines else [""]
    write_atomic(path, before + BEGIN + "\n" + "\n".join(block[1:]) + ("\n" if lines else "") + END + after)
