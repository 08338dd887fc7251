"""The pieces that pages share: tiles, lists of facts, tables."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from attn_deploy.pages.page import NOTHING, Html, html, joined


def tiles(entries: Sequence[tuple[str, str, str]]) -> Html:
    """Large figures in a row.

    Args:
        entries: a kind that colours it (``ok``, ``failed``, ``none`` or nothing), the figure, and what it is of.
    """
    parts = [html('<div class="tile {}"><b>{}</b>{}</div>', *entry) for entry in entries]
    return html('<div class="tiles">{}</div>', joined(parts))


def facts(entries: Sequence[tuple[str, str]]) -> Html:
    """Names with their values; entries without a value are left out."""
    return html("<dl>{}</dl>", joined(html("<dt>{}</dt><dd>{}</dd>", k, v) for k, v in entries if v))


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], words: Collection[int] = (0,)) -> Html:
    """A table that scrolls by itself where it is too wide.

    Args:
        heads: titles of the columns.
        rows: texts, as many in each row as there are columns.
        words: numbers of the columns that hold words, which stand to the left.
    """
    kinds = [Html(' class="word"') if n in words else NOTHING for n in range(len(heads))]
    head = joined(html("<th{}>{}</th>", k, h) for k, h in zip(kinds, heads, strict=True))
    body = joined(
        html("<tr>{}</tr>", joined(html("<td{}>{}</td>", k, c) for k, c in zip(kinds, row, strict=True)))
        for row in rows
    )
    return html('<div class="sheet"><table><thead><tr>{}</tr></thead><tbody>{}</tbody></table></div>', head, body)
