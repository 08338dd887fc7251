"""One thing in a model that matters to an export."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from attn_deploy.rules.location import Place
from attn_deploy.rules.rules import rule

SEVERITIES = ("error", "warning", "rewritten")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing in a model that matters to an export.

    Attributes:
        rule: id of the rule that it falls under (see `attn_deploy.rules.rules`).
        what: the thing itself, in words, with the values that matter.
        place: where.
        severity: ``error`` (the export fails), ``warning`` (it may, or the file holds for some sizes only) or
            ``rewritten`` (export replaces it by a form that is right).
    """

    rule: str
    what: str
    place: Place
    severity: str = "warning"

    @property
    def remedy(self) -> str:
        """What to do about it."""
        return rule(self.rule).remedy

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data."""
        return {**asdict(self), "explanation": rule(self.rule).explanation, "remedy": self.remedy}
