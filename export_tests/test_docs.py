"""The documentation: every command of it runs as typed, and its generated pages are there."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from attn_deploy.machine.devices import list_devices
from attn_deploy.registry import list_models
from attn_deploy.rules.rules import RULES
from export_tests.bench.profile_records import full

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").rglob("*.md"))
BLOCK = re.compile(r"^```sh(?: expect=(\d))?\n(.*?)^```", re.MULTILINE | re.DOTALL)


def commands(page: Path) -> list[tuple[str, int]]:
    """The lines to type in order, each with the exit code that the page says."""
    blocks = BLOCK.findall(page.read_text(encoding="utf-8"))
    return [(line, int(code or 0)) for code, text in blocks for line in text.splitlines() if line.strip()]


TYPED = [p for p in PAGES if commands(p)]


@pytest.fixture(scope="module")
def generate():
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.parametrize("page", TYPED, ids=lambda p: p.stem)
def test_every_command_runs_as_typed(page, tmp_path):
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    for line, code in commands(page):
        program, *arguments = shlex.split(line)
        assert program in ("attn-deploy", "python")
        done = subprocess.run(
            [sys.executable, *(["-m", "attn_deploy"] if program == "attn-deploy" else []), *arguments],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            cwd=tmp_path / "examples",
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert done.returncode == code, f"{page.name}: {line}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr


def test_pages_have_commands():
    assert {p.stem for p in TYPED} >= {"index", "own-model", "int8", "fp16", "ci", "blocks", "jetson", "insert"}


def test_each_entry_rule_and_command_has_its_place(generate):
    pages = generate.generated_pages()
    for spec in list_models():
        page = pages[f"generated/zoo/{spec.name}.md"]
        assert page.startswith(f"# {spec.name}\n")
        assert f"attn-deploy export {spec.name}" in page
        assert all(f"| {a.name.replace('_', chr(92) + '_')} |" in page for a in spec.arguments)
    assert all(f"## {rule.id}\n" in pages["generated/rules.md"] for rule in RULES)
    for command in ("export", "matrix merge", "quantize", "doctor"):
        assert f"## {command}\n" in pages["generated/commands.md"]
    assert "--input" in pages["generated/commands.md"]


def test_each_entry_has_its_graph_and_its_picture(generate):
    graphs = json.loads((ROOT / "docs" / "zoo_graphs.json").read_text(encoding="utf-8"))
    names = {s.name for s in list_models()}
    assert names <= set(graphs), "run python docs/zoo_graphs.py"
    pages = generate.generated_pages()
    for name in names:
        page = pages[f"generated/zoo/{name}.md"]
        assert "## Graph" in page
        graph = graphs[name]
        count = len(graph.get("nodes", ()))
        assert ("<svg" in page) == (0 < count <= 80)
        if "<svg" in page:
            svg = re.search(r"<svg.*?</svg>", page)[0]
            shown = re.findall(r">([^<]+)</text>", svg)
            assert len(shown) == count + len(graph["inputs"]) + len(graph["outputs"])
            assert [n for n, _ in graph["nodes"]].count("Conv") == shown.count("Conv")


def test_rules_have_examples_and_versions_are_those_of_the_project(generate):
    pages = generate.generated_pages()
    rules = pages["generated/rules.md"]
    assert rules.count("```python") >= 24
    assert "if x.mean() > 0.5:" in rules[rules.index("## data-dependent-branch") : rules.index("## branch-on-shape")]
    support = pages["generated/support.md"]
    pinned = re.search(r"(?m)^torch==(.+)$", (ROOT / "constraints.txt").read_text())[1]
    assert f"| torch | >=2.9 | {pinned} | core |" in support
    assert "| 25.06 | 10.11.0 |" in support
    for device in list_devices():
        assert f"| {device} |" in pages["generated/devices.md"]


def test_the_published_schemas_describe_the_records(generate):
    kinds = generate.record_kinds()
    assert set(kinds) == {"profile", "matrix", "training"}
    for make in kinds.values():
        schema = generate.json_schema(make())
        name = schema["$ref"].rpartition("/")[2]
        assert "schema_version" in schema["$defs"][name]["properties"]
    data = msgspec.to_builtins(full())
    name = generate.json_schema(kinds["profile"]())["$ref"].rpartition("/")[2]
    properties = generate.json_schema(kinds["profile"]())["$defs"][name]["properties"]
    assert set(data) <= set(properties) | {"schema_version"}


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("material") is None, reason="the extra docs is not installed")
def test_the_site_builds_strictly(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-q", "-d", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "site" / "generated" / "zoo" / "se.html").is_file()
    assert (tmp_path / "site" / "search" / "search_index.json").stat().st_size > 100_000
