"""The index of rules: each known cause with an example from the tests that provokes it, and its remedy."""

from __future__ import annotations

import ast
import textwrap
from pathlib import Path

from zoo_pages import text_of

TESTS = Path(__file__).resolve().parents[1] / "export_tests"
PROVOKED = TESTS / "rules" / "test_rules.py"
BROKEN = TESTS / "exporters" / "user_models" / "broken.py"


def rule_pages() -> dict[str, str]:
    """Each known cause with its example and remedy."""
    from attn_deploy.rules.rules import RULES

    examples = rule_examples()
    parts = [
        "# Rules",
        "",
        f"The {len(RULES)} known ways in which an export goes wrong. `lint` finds them in the source before an export, errors "
        "of `export` name them, and `diagnose` gives their remedies. Each example is a model of the tests that provokes it.",
        "",
    ]
    for rule in RULES:
        parts += [f"## {rule.id}", "", f"**Why:** {text_of(rule.explanation)}.", ""]
        if rule.id in examples:
            parts += ["```python", examples[rule.id], "```", ""]
        parts += [f"**Remedy:** {text_of(rule.remedy)}", ""]
    return {"generated/rules.md": "\n".join(parts)}


def rule_examples() -> dict[str, str]:
    """By rule, the class of the tests that breaks it; read as text, nothing is imported."""
    table = next(
        node.value
        for node in ast.parse(PROVOKED.read_text(encoding="utf-8")).body
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "PROVOKED"
    )
    assert isinstance(table, ast.Dict)
    source = BROKEN.read_text(encoding="utf-8")
    classes = {
        n.name: ast.get_source_segment(source, n) or "" for n in ast.parse(source).body if isinstance(n, ast.ClassDef)
    }
    examples = {}
    for key, value in zip(table.keys, table.values, strict=True):
        if isinstance(key, ast.Constant) and isinstance(value, ast.Tuple) and isinstance(value.elts[0], ast.Attribute):
            examples[str(key.value)] = textwrap.dedent(classes[value.elts[0].attr])
    return examples
