"""The committed profiles of a checkout: measured, read without running anything. No torch.

An installed package has their digest instead: see `attn_deploy.comparison.digest`.
"""

from __future__ import annotations

import difflib
import re
from pathlib import Path

from attn_deploy.comparison.collection import Run, is_profile, named_runs, read_possible_record, read_profile_record
from attn_deploy.errors import InvalidRequestError

_ROOT = Path(__file__).resolve().parents[2]
RESULTS = _ROOT / "profiles"


def in_checkout() -> bool:
    """Whether the records are beside the package, as in a clone of the repository."""
    return RESULTS.is_dir() and (RESULTS.parent / "pyproject.toml").is_file()


def known_runs(*, device: str | None = None, model: str | None = None, folder: Path = RESULTS) -> tuple[Run, ...]:
    """The committed profiles.

    Args:
        device: name of a folder of results, however it is punctuated; all by default.
        model: a model's name as in the record, ``*`` stands for anything; all by default.
        folder: where the results are.

    Raises:
        InvalidRequestError: if there is no such device or model, or a committed record is broken.
    """
    devices = {plain(p.name): p for p in sorted(folder.iterdir()) if p.is_dir()} if folder.is_dir() else {}
    if device is not None and plain(device) not in devices:
        raise InvalidRequestError(unknown_name("device", device, [p.name for p in devices.values()]))
    chosen = [p for key, p in devices.items() if device is None or key == plain(device)]
    files = [f for p in chosen for f in sorted(p.rglob("*.json")) if is_profile(read_possible_record(f))]
    runs = [(f, read_profile_record(f), ()) for f in files]
    if model is not None:
        wanted = re.compile(re.escape(model.lower()).replace(r"\*", ".*"))
        names = [r.name for _, r, _ in runs]
        runs = [r for r in runs if wanted.fullmatch(r[1].name.lower())]
        if not runs:
            raise InvalidRequestError(unknown_name("model", model, names))
    return named_runs(runs)


def plain(name: str) -> str:
    """A device's name however it is punctuated."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def unknown_name(what: str, name: str, known: list[str]) -> str:
    """The message for a device or model that was not measured."""
    known = list(dict.fromkeys(known))
    if not known:
        return f"no measured profile of a {what} {name!r} comes with this version, nor of any other."
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else "."
    listed = ", ".join(known[:12]) + (f" and {len(known) - 12} more" if len(known) > 12 else "")
    return f"no measured profile of the {what} {name!r}{hint} Measured: {listed}."
