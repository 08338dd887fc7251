"""Data as instances of dataclasses: what is wrong is named by its field."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import pytest

from attn_deploy.errors import InvalidRequestError
from attn_deploy.reading import read_json, read_toml, read_typed, typed


@dataclass(frozen=True)
class Note:
    kind: Literal["a", "b"] = "a"
    numbers: tuple[int, ...] = ()
    counts: dict[str, int] | None = None
    text: str = ""


@pytest.mark.parametrize(
    ("data", "place"),
    [
        ({"kind": "\ud800"}, "kind"),
        ({"numbers": "\ud800x"}, "numbers"),
        ({"numbers": [1, "\ud800"]}, r"numbers\[1\]"),
        ({"counts": "\udfff"}, "counts"),
        ({"text": ["\udfff"]}, "text"),
    ],
)
def test_half_a_character_is_an_error_that_names_the_field(data, place):
    with pytest.raises(InvalidRequestError, match=rf"^{place}.* is "):
        typed(data, Note)


def test_half_a_character_in_a_text_is_a_text():
    assert typed({"text": "\ud800"}, Note).text == "\ud800"  # as names of files that are not UTF-8 have it


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"kind": "c"}, "kind is 'c', and must be one of its values"),
        ({"numbers": [1, "2"]}, r"numbers\[1\] is '2', and must be a whole number"),
        ({"counts": {"a": 1, "b": None}}, r"counts\.b is None, and must be a whole number"),
        ({"counts": {"a": math.nan}}, r"counts\.a is nan, and must be a finite number"),
        ([], r"the whole is \[\], and must be an object"),
    ],
)
def test_a_field_of_another_type_is_named(data, message):
    with pytest.raises(InvalidRequestError, match=message):
        typed(data, Note)


def test_messages_of_files_name_the_file(tmp_path):
    path = tmp_path / "note.json"
    path.write_text('{"kind": "b", "numbers": [1, 2], "unknown": {}}', encoding="utf-8")
    assert read_typed(path, Note, "a note") == Note("b", (1, 2))
    path.write_text('{"numbers": 3}', encoding="utf-8")
    with pytest.raises(InvalidRequestError, match=r"note\.json is not a note: numbers is 3"):
        read_typed(path, Note, "a note")
    path.write_text('{"schema_version": 9}', encoding="utf-8")
    with pytest.raises(InvalidRequestError, match="schema version 1, which this version reads: 9"):
        read_typed(path, Note, "a note", schema=1)
    for text in ("{", "[" * 100_000):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(InvalidRequestError, match=r"note\.json is not (JSON|a record)"):
            read_json(path)
    path.write_text("a = ", encoding="utf-8")
    with pytest.raises(InvalidRequestError, match=r"the settings .*note\.json is not valid TOML"):
        read_toml(path, "the settings")
    with pytest.raises(InvalidRequestError, match=r"none\.json cannot be read: No such file"):
        read_json(tmp_path / "none.json")
    with pytest.raises(InvalidRequestError, match=f"^{tmp_path} is no file"):  # and not that it is no JSON
        read_json(tmp_path)
    path.write_bytes(b" " * (1 << 20) + b"a = 1")
    with pytest.raises(InvalidRequestError, match=r"^the settings .* has 1,048,581 bytes, which is too large for one"):
        read_toml(path, "the settings")
