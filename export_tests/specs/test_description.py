from __future__ import annotations

import pytest

from attn_deploy.specs.description import arguments_of, default_inputs, family_of, sections, year_of

DOCSTRING = """A block.

Paper: Somebody et al., "A block of 1998 pixels", CVPR 2021,
    arXiv:1904.1234.
Official: github.com/somebody/block.
Export: one pooling.
  A note: lines that look like another section end the one before.
Limits: H and W are even.
"""


def test_sections_of_a_docstring_are_joined_lines():
    texts = sections(DOCSTRING)
    assert texts["paper"] == 'Somebody et al., "A block of 1998 pixels", CVPR 2021, arXiv:1904.1234.'
    assert texts["official"] == "github.com/somebody/block."
    assert texts["limits"] == "H and W are even."
    assert "deviations" not in texts


@pytest.mark.parametrize(
    ("paper", "year"),
    [
        ("Hu et al., CVPR 2018", 2018),
        ("arXiv:2103.02907, CVPR 2021", 2021),  # the number of a preprint is no year
        ("LeCun, 1998.", 1998),
        ("", None),
        ("of 64x2048 maps", None),
    ],
)
def test_the_year_of_a_paper(paper, year):
    assert year_of(paper) == year


@pytest.mark.parametrize(
    ("module", "family"),
    [
        ("attn_deploy.modules.attention.squeeze_excite", "attention"),
        ("attn_deploy.backbones.resnet", "backbone"),
        ("theirs.blocks", "custom"),
    ],
)
def test_the_family_is_the_shelf_of_the_file(module, family):
    assert family_of(module) == family


def test_arguments_and_inputs_of_a_class():
    class Block:
        def __init__(self, in_channels: int, ratio: float = 0.5, *, bias=True):
            pass

    first, second, third = arguments_of(Block)
    assert (first.name, first.default, first.annotation) == ("in_channels", None, "int")
    assert (second.name, second.default, second.annotation) == ("ratio", "0.5", "float")
    assert (third.name, third.default, third.annotation) == ("bias", "True", "")
    assert default_inputs({"in_channels": 3})[0].shape == ("N", "in_channels", "H", "W")
    assert default_inputs({"channels": 3})[0].shape == ("N", "channels", "H", "W")
