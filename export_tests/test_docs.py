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

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

import msgspec
import pytest

from attn_deploy.machine.devices import list_devices
from attn_deploy.reading import read_toml
from attn_deploy.registry import list_models
from attn_deploy.rules.rules import RULES
from export_tests.bench.profile_records import full
from export_tests.documented import NEEDS, PAGES, ROOT, blocks, in_text, of_the_help, refusal

# What the commands of an installation come to in a checkout that is installed already: .ci/run and .ci/wheel run them.
INSTALLING = ("python3 -m venv .venv", ".venv/bin/pip install -c constraints.txt", ".venv/bin/python -m pytest")
EVERYWHERE = [t for page in PAGES for t in (*blocks(page), *in_text(page))]
# README is read at the root of a clone, the pages of docs/ beside the examples; README's table is typed from top to bottom.
TYPED = {p: [t for t in (*blocks(p), *(in_text(p) if p.name == "README.md" else ())) if not t.needs] for p in PAGES}


@pytest.fixture(scope="module")
def generate():
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.parametrize("page", [p for p in PAGES if TYPED[p]], ids=lambda p: p.stem)
def test_every_command_runs_as_typed(page, tmp_path):
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    folder = tmp_path / "examples" if page.is_relative_to(ROOT / "docs") else tmp_path
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        "XDG_CONFIG_HOME": str(tmp_path / "config"),  # doctor --measure keeps what it measures there
    }
    for command in TYPED[page]:
        if str(command).startswith(INSTALLING):
            continue
        program, *words = command.words
        assert program.rpartition("/")[2] in ("attn-deploy", "python"), command
        done = subprocess.run(
            [sys.executable, *(["-m", "attn_deploy"] if program.endswith("attn-deploy") else []), *words],
            env=environment,
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
        )
        assert done.returncode in command.codes, f"{page.name}: {command}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr, f"{page.name}: {command}\n{done.stderr}"


@pytest.mark.parametrize("where", ["pages", "help"])
def test_the_command_line_takes_every_command_that_is_written(where):
    commands = of_the_help() if where == "help" else [t for t in EVERYWHERE if len(t.words) > 2]
    ours = [t for t in commands if t.words[0].rpartition("/")[2] == "attn-deploy"]
    assert len(ours) > 100
    refused = {f"{t.page.name}: {t}": words for t in ours if (words := refusal(t.words))}
    assert not refused


def test_a_command_that_is_wrong_would_be_told():
    assert "No such option: --nope" in refusal(("attn-deploy", "export", "se", "--nope"))
    assert "No such command" in refusal(("attn-deploy", "expotr", "se"))
    assert "Missing parameter" in refusal(("attn-deploy", "matrix", "diff", "a"))
    assert "not a valid int" in refusal(("attn-deploy", "export", "se", "--opset", "many"))
    assert not refusal(("attn-deploy", "matrix", "se", "--opsets", "17"))


def test_what_cannot_be_run_says_why():
    assert {t.needs for t in EVERYWHERE} <= NEEDS | {""}
    assert {c for t in EVERYWHERE for c in t.codes} <= {0, 1}
    assert sum(bool(t.needs) for t in EVERYWHERE) < 15, "the commands of the documentation are there to be run"


def test_pages_have_commands():
    assert {p.stem for p in PAGES if TYPED[p]} >= {
        "README",
        "guide",
        "index",
        "own-model",
        "int8",
        "fp16",
        "ci",
        "blocks",
        "jetson",
        "insert",
    }


@pytest.mark.parametrize("page", ["README.md", "docs/tutorials/jetson.md"])
def test_the_line_for_a_device_names_what_is_needed_without_torch(page):
    """The requirements of the package but PyTorch and what only works with it, for `pip install --no-deps`."""
    text = " ".join((ROOT / page).read_text().split())
    (line,) = re.findall(r"pip install --no-deps [^`]*?&& pip install ([^`$]*?cuda-python)", text)
    named = {re.split(r"[<>=]", word)[0] for word in shlex.split(line)}
    project = read_toml(ROOT / "pyproject.toml", "the project")["project"]
    needed = {re.split(r"[<>=;\s]", d)[0] for d in project["dependencies"]} - {"torch", "onnxscript", "safetensors"}
    assert named >= needed
    device = {re.split(r"[<>=]", d)[0] for d in project["optional-dependencies"]["device"]}
    assert device <= named


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
    pages = {p.name: p.read_text(encoding="utf-8") for p in (tmp_path / "site").rglob("*.html")}
    assert not [n for n, text in pages.items() if "```" in text], "a block that is none on the site"
    assert not [n for n, text in pages.items() if re.search(r'(?:src|rel="stylesheet" href)="https?:', text)]


def test_a_device_without_torch_gets_all_that_is_needed():
    """What is printed for a Jetson installs every dependency but those of torch's side."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = {re.split(r"[<>=;]", d)[0].strip() for d in project["dependencies"]}
    lines = [
        t
        for p in PAGES
        for t in re.findall(r"pip install --no-deps [^&`]*&& pip install ([^`\n]*)", p.read_text("utf-8"))
    ]
    assert len(lines) >= 2
    for line in lines:
        assert needed - {re.split(r"[<>=]", w.strip("'"))[0] for w in line.split()} == {
            "torch",
            "onnxscript",
            "safetensors",
        }
