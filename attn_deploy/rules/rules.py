"""The known ways in which a model cannot be exported, each with its explanation and its remedy. No torch here.

A rule is recognised in three ways: in the words of an error (`explain`), in the calls that a forward pass makes
(`attn_deploy.rules.calls`), and in the source (`attn_deploy.rules.source`). All three speak through this table.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Any

from attn_deploy.rules.table import ENTRIES


@dataclass(frozen=True, slots=True)
class Rule:
    """One known cause of failure.

    Attributes:
        id: a stable name, such as ``loop-over-batch``.
        explanation: why it breaks, as the end of a sentence that begins with the model's name.
        remedy: what to do, as a sentence.
        patterns: regular expressions over the messages of exporters and of this package.
        general: it says what happened and not why; any other rule that fits is preferred.
    """

    id: str
    explanation: str
    remedy: str
    patterns: tuple[str, ...] = ()
    general: bool = False

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data."""
        return asdict(self)


RULES: tuple[Rule, ...] = tuple(Rule(**entry) for entry in ENTRIES)
_BY_ID = {rule.id: rule for rule in RULES}


def rule(identifier: str) -> Rule:
    """The rule of that id.

    Raises:
        KeyError: if there is none.
    """
    return _BY_ID[identifier]


def explain(error: BaseException | str) -> Rule | None:
    """The rule that explains an error, or None if no rule does.

    Args:
        error: an exception, with the causes chained to it, or a message.

    A rule that names a cause is preferred to one that only says what happened, and the error's own words to those of its
    causes.
    """
    matches: list[Rule] = []
    for current in _chain(error) if isinstance(error, BaseException) else [error]:
        identifier = getattr(current, "rule", None)
        if identifier in _BY_ID:
            matches.append(_BY_ID[identifier])
        text = " ".join(str(current).split())
        matches += [r for r in RULES if any(re.search(p, text, re.IGNORECASE) for p in r.patterns)]
    return next((r for r in matches if not r.general), matches[0] if matches else None)


def _chain(error: BaseException) -> list[BaseException]:
    chain = [error]
    while chain[-1].__cause__ is not None and len(chain) < 8:
        chain.append(chain[-1].__cause__)
    return chain
