"""What all pages are made of: markup that is escaped by construction, one stylesheet, and a policy on what may run."""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import string
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

_STYLE = Path(__file__).with_name("page.css")


class Html(str):
    """Text that is markup already; any other text is escaped where it goes into a page."""

    __slots__ = ()


NOTHING = Html("")


class _Escaping(string.Formatter):
    """``str.format`` whose values are escaped unless they are markup."""

    def format_field(self, value: Any, format_spec: str) -> str:
        return value if isinstance(value, Html) else escape(format(value, format_spec), quote=True)


_FORMATTER = _Escaping()


def html(template: str, *values: object, **named: object) -> Html:
    """Markup from a template as of ``str.format``; values are escaped, and those that are `Html` stay as they are."""
    return Html(_FORMATTER.vformat(template, values, named))


def joined(parts: Iterable[Html], between: str = "") -> Html:
    """Pieces of markup one after the other.

    Raises:
        TypeError: if one is plain text, which nobody has escaped.
    """
    pieces = list(parts)
    for piece in pieces:
        if not isinstance(piece, Html):
            raise TypeError(f"{piece!r} is no markup: make it with html().")
    return Html(between.join(pieces))


def embedded(data: object) -> str:
    """JSON that no text in it can end the script element of."""
    return json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def page(
    title: str,
    body: Html,
    *,
    kind: str = "",
    after: Html = NOTHING,
    data: Mapping[str, object] | None = None,
    scripts: Sequence[str] = (),
) -> str:
    """A whole page that needs nothing else, with a policy that forbids whatever is not in it.

    Args:
        title: of the window.
        body: what stands in ``main``.
        kind: a class of ``main``.
        after: what stands after it.
        data: JSON by the id of its element, for the scripts.
        scripts: the page's own; nothing else can run, nothing is fetched and nothing is sent.
    """
    allowed = " ".join(f"'sha256-{_hash(text)}'" for text in scripts) or "'none'"
    policy = (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'; "
        "form-action 'none'"
    )
    elements = [
        html('<script type="application/json" id="{}">{}</script>\n', name, Html(embedded(value)))
        for name, value in (data or {}).items()
    ]
    elements += [html("<script>{}</script>\n", Html(text)) for text in scripts]
    return html(
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{title}</title>\n'
        "<style>\n{style}</style>\n</head>\n<body>\n<main{kind}>\n{body}\n</main>\n{after}{elements}</body>\n</html>\n",
        policy=Html(policy),
        title=title,
        style=Html(_style()),
        kind=html(' class="{}"', kind) if kind else NOTHING,
        body=body,
        after=after,
        elements=joined(elements),
    )


@functools.cache
def _style() -> str:
    return _STYLE.read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode()
