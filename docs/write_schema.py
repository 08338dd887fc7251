"""Writes docs/deploy.schema.json, the JSON schema of a pipeline's file, from the options of the commands."""

from __future__ import annotations

import json
from pathlib import Path

from attn_deploy.cli.deploy import driven_commands
from attn_deploy.pipeline.schema import pipeline_schema

if __name__ == "__main__":
    path = Path(__file__).with_name("deploy.schema.json")
    path.write_text(json.dumps(pipeline_schema(driven_commands()), indent=1) + "\n", encoding="utf-8")
