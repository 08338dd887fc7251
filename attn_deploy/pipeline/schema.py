"""The JSON schema of a pipeline's file, for editors: made from the options of the commands."""

from __future__ import annotations

from typing import Any

from attn_deploy.pipeline.commands import GATE_HELP, GATES, STEPS, Commands, Option


def pipeline_schema(commands: Commands) -> dict[str, Any]:
    """The schema as JSON-ready data."""
    properties: dict[str, Any] = {
        "model": {"type": "string", "description": "A name such as resnet18+se or net.py:MyNet, or an ONNX file."},
        "output": {"type": "string", "description": "Folder of the results.", "default": "deployed"},
    }
    for name, own in STEPS.items():
        options = {k: _of_option(o) for k, o in commands[name].items() if k not in own}
        table = {"type": "object", "additionalProperties": False, "properties": options}
        properties[name] = {"oneOf": [table, {"type": "array", "items": table}]} if name == "build" else table
    gates = {k: {"type": kind, "description": GATE_HELP[k]} for k, kind in GATES.items()}
    properties["gates"] = {"type": "object", "additionalProperties": False, "properties": gates}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "attn-deploy deploy",
        "type": "object",
        "additionalProperties": False,
        "required": ["model"],
        "properties": properties,
    }


def _of_option(option: Option) -> dict[str, Any]:
    single: dict[str, Any] = {"type": option.kind}
    schema = dict(single)
    if option.many or option.kind == "string":  # words that the command line separates by commas may be a list
        items = {"type": ["string", "number"]} if option.kind == "string" else single
        schema = {"anyOf": [single, {"type": "array", "items": items}]}
    return {**schema, "description": option.help} if option.help else schema
