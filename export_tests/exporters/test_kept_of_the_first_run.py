"""What a model keeps of its first run: refused by name where it decides later ones."""

from __future__ import annotations

import pytest

from attn_deploy.errors import ExportError
from export_tests.exporters.proven_exports import assert_right, copies, images, made
from export_tests.exporters.user_models import stateful


def test_what_is_kept_of_the_first_run_is_refused_by_name(tmp_path):
    with pytest.raises(ExportError, match=r"'margin' is kept of the first run") as caught:
        made(stateful.KeepsMargin(), tmp_path, ("1x3x16x20",))
    assert caught.value.rule == "cached-by-size"
    assert "stateful.py, line" in str(caught.value)
    model = stateful.KeepsMargin().eval()
    artifact = made(model, tmp_path, ("1x3x17x20",), dynamic=("N",))
    assert_right(artifact.path, copies(model), *images((3, 3, 17, 20)))
    assert model.margin is None, "the user's model is left as it was"


@pytest.mark.parametrize("where", ["class", "global", "function", "default", "closure", "list"])
def test_what_is_kept_outside_the_modules_is_refused_by_name(where, tmp_path):
    names = {
        "class": "KeepsOutside.width", "global": "stateful._SEEN", "function": "_of_function.width",
        "default": "a default of stateful._with_default", "closure": "of_closure.cell", "list": "'list'",
    }  # fmt: skip
    for _ in range(2):  # the refusal has put everything back
        with pytest.raises(ExportError, match="first run") as caught:
            made(stateful.KeepsOutside(where), tmp_path, exporter="torchscript")
        assert caught.value.rule == "cached-by-size"
        assert names[where] in str(caught.value)


def test_a_cache_by_size_is_no_history(tmp_path):
    model = stateful.KeepsOutside("by width").eval()
    model.arguments = ("by width",)
    artifact = made(model, tmp_path, dynamic=("N", "H"), exporter="torchscript")
    assert_right(artifact.path, copies(model), *images((3, 3, 9, 20)))
