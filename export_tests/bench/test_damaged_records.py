"""Profile records that were damaged or written by something else: every command names the file and the field."""

from __future__ import annotations

import json
import re

import pytest
from typer.testing import CliRunner

from attn_deploy.bench.latency import LatencyResult
from attn_deploy.bench.record import ProfileRecord
from attn_deploy.cli import app
from attn_deploy.comparison import library
from attn_deploy.comparison.collection import read_runs
from attn_deploy.errors import InvalidRequestError
from export_tests.bench.profile_records import GPU, accuracy, record, row

DAMAGES = {
    "rows[1].latency.rounds[0][3]": ("fast", float("nan"), float("inf"), -5, 0, None, True),
    "rows[1].latency.rounds": ([], [[]], "none", 3),
    "rows[1].latency.calls_per_sample": (0, "one"),
    "rows[1].latency": (None, 7),
    "rows[1].batch": ("one", 0, 1.5),
    "rows[1].status": ("good",),
    "rows[1].size": ([32], "32x32", ["32", 32]),
    "rows[1].speedup.speedup": (0, "2x", float("nan")),
    "rows[1].accuracy.images": (0, "many"),
    "rows[1].shapes.x[0]": ("N",),
    "rows": (3, {"a": 1}),
    "environment.gpus": (3, None),
    "environment.gpus[0].clock": ("fast",),
    "environment.cpu": (5, None),
    "environment": ([],),
    "options.confidence": (float("nan"), "95 %"),
    "name": (4, None),
    "load_after": ("high", float("inf")),
}
CASES = [(field, value) for field, values in DAMAGES.items() for value in values]


def healthy():
    return record(row("eager", 2.0), row("ort-cpu", 1.0, accuracy=accuracy(0.9)), name="se", environment=GPU)


def damaged(data, field, value):
    *path, last = [int(p) if p.isdigit() else p for p in field.replace("[", ".").replace("]", "").split(".")]
    place = data
    for step in path:
        place = place[step]
    place[last] = value
    return data


@pytest.mark.parametrize(("field", "value"), CASES, ids=[f"{f}={v}" for f, v in CASES])
def test_a_damaged_record_is_refused_with_the_field(field, value):
    data = damaged(json.loads(healthy().to_json()), field, value)
    with pytest.raises(InvalidRequestError) as caught:
        ProfileRecord.from_dict(data)
    assert str(caught.value).startswith(field), str(caught.value)


@pytest.mark.parametrize("field", ["environment.cpu", "rows[1].latency.rounds", "rows[0].status", "options", "created"])
def test_a_field_that_is_missing_is_named(field):
    data = json.loads(healthy().to_json())
    place, last = data, field.replace("[", ".").replace("]", "").split(".")
    for step in last[:-1]:
        place = place[int(step) if step.isdigit() else step]
    del place[last[-1]]
    if field == "created":  # has a default
        assert ProfileRecord.from_dict(data).created == ""
        return
    with pytest.raises(InvalidRequestError, match=re.escape(f"{field} is missing")):
        ProfileRecord.from_dict(data)


@pytest.mark.parametrize("command", ["report", "compare", "profiles"])
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("rows[1].latency.rounds[0][3]", "fast"),
        ("rows[1].latency.rounds[0][3]", float("nan")),
        ("rows[1].latency.rounds", []),
        ("rows[1].batch", "one"),
        ("environment.gpus", 3),
    ],
)
def test_every_command_names_the_file_and_the_field(tmp_path, monkeypatch, command, field, value):
    place = tmp_path / "h100"
    place.mkdir()
    good, bad = tmp_path / "good.json", place / "bad.json"
    healthy().write(good)
    bad.write_text(json.dumps(damaged(json.loads(healthy().to_json()), field, value)))
    monkeypatch.setattr(library.known_runs, "__kwdefaults__", {**library.known_runs.__kwdefaults__, "folder": tmp_path})
    given = {"report": [str(bad), "-o", str(tmp_path / "r.json")], "compare": [str(good), str(bad)], "profiles": []}
    done = CliRunner().invoke(app, [command, *given[command]])
    assert done.exit_code == 2, done.output
    texts = " ".join(done.stderr.split())
    assert "bad.json" in texts
    assert field in texts
    assert "Traceback" not in done.output


@pytest.mark.parametrize("field", ["name", "environment", "options", "rows", "baseline", "schema_version"])
def test_a_record_in_a_folder_that_lost_a_field_is_not_passed_over(tmp_path, field):
    healthy().write(tmp_path / "good.json")
    data = json.loads(healthy().to_json())
    del data[field]
    (tmp_path / "bad.json").write_text(json.dumps(data))
    with pytest.raises(InvalidRequestError, match=rf"bad\.json.*({field}|schema version)"):
        read_runs([tmp_path])


def test_samples_that_are_read_alone_are_checked_too():
    sound = {
        "rounds": [[1.0, 2.0]],
        "calls_per_sample": 1,
        "clock_overhead_ns": 3.0,
        "warmup_runs": 1,
        "warmup_seconds": 0.1,
        "steady": True,
    }
    assert LatencyResult.from_dict(sound).n == 2
    for field, value in (("rounds", [["x"]]), ("rounds", []), ("steady", 1), ("clock_overhead_ns", float("nan"))):
        with pytest.raises(InvalidRequestError, match=field):
            LatencyResult.from_dict({**sound, field: value})


def test_the_committed_records_are_sound():
    assert all(r.record.rows for r in library.known_runs())
