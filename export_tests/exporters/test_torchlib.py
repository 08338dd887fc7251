"""The table of ONNX functions is made without reading their sources, and is the same."""

from __future__ import annotations

import pytest

from attn_deploy.exporters import torchlib

library = pytest.importorskip("onnxscript._framework_apis.torch_2_5")


def facts():
    return [(m.qualified_name, m.name, m.domain, m.is_complex, m.function) for m in library.get_torchlib_ops()]


def test_what_is_not_read_is_what_would_be():
    read = facts()
    with torchlib._unread_sources():
        unread = facts()
    assert unread == read
    assert len(read) > 400
    assert facts() == read, "the library is as it was"
