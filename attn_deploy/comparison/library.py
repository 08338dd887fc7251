"""The profiles that come with the package: measured, committed, read without running anything. No torch."""

from __future__ import annotations

import difflib
import re
from pathlib import Path

from attn_deploy.comparison.collection import Run, is_profile, named_runs, read_json, read_record
from attn_deploy.errors import InvalidRequestError

RESULTS = Path(__file__).resolve().parents[2] / "profiles"


def known_runs(*, device: str | None = None, model: str | None = None, folder: Path = RESULTS) -> tuple[Run, ...]:
    """The committed profiles.

    Args:
        device: name of a folder of results, however it is punctuated; all by default.
        model: a model's name as in the record, ``*`` stands for anything; all by default.
        folder: where the results are.

    Raises:
        InvalidRequestError: if there is no such device or model, or a committed record is broken.
    """
    devices = {_plain(p.name): p for p in sorted(folder.iterdir()) if p.is_dir()} if folder.is_dir() else {}
    if device is not None and _plain(device) not in devices:
        raise InvalidRequestError(_unknown("device", device, [p.name for p in devices.values()]))
    chosen = [p for key, p in devices.items() if device is None or key == _plain(device)]
    files = [f for p in chosen for f in sorted(p.rglob("*.json")) if is_profile(read_json(f))]
    runs = [(f, read_record(f), ()) for f in files]
    if model is not None:
        wanted = re.compile(re.escape(model.lower()).replace(r"\*", ".*"))
        names = [r.name for _, r, _ in runs]
        runs = [r for r in runs if wanted.fullmatch(r[1].name.lower())]
        if not runs:
            raise InvalidRequestError(_unknown("model", model, names))
    return named_runs(runs)


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _unknown(what: str, name: str, names: list[str]) -> str:
    names = list(dict.fromkeys(names))
    if not names:
        return f"no measured profile of a {what} {name!r} is part of this version, nor of anything else."
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else "."
    listed = ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")
    return f"no measured profile of the {what} {name!r}{hint} Measured: {listed}."
