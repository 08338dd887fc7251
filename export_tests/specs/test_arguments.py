"""Constructors that check what they are made from against their annotations."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence

import pytest

from attn_deploy.specs.arguments import checks_arguments


@checks_arguments
class Block:
    def __init__(
        self,
        channels: int,
        sizes: Sequence[int] = (1, 2),
        *,
        eps: float = 1e-5,
        kernel: int | tuple[int, int] = 3,
        act: str | None = None,
        bias: bool = False,
        norm: Callable[..., object] | None = None,
    ) -> None:
        self.arguments = (channels, sizes, eps, kernel, act, bias, norm)


@checks_arguments
class Wider(Block):
    def __init__(self, channels: int) -> None:
        super().__init__(2 * channels)


@pytest.mark.parametrize(
    "arguments",
    [
        {"channels": 8},
        {"channels": 8, "eps": 1},  # a whole number is a number
        {"channels": 8, "sizes": [3, 6], "kernel": [3, 5]},  # lists come from files
        {"channels": 8, "sizes": (), "act": None, "norm": print},
        {"channels": 8, "norm": "anything"},  # nothing is said of other annotations
    ],
)
def test_what_the_annotations_say_passes(arguments):
    assert Block(**arguments).arguments[0] == 8


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("channels", 8.0, "a whole number, got 8.0"),
        ("channels", True, "a whole number, got True"),
        ("sizes", "12", "a list, each a whole number, got '12'"),
        ("sizes", (1, 2.5), "a list, each a whole number"),
        ("kernel", (3, 3, 3), "a whole number or a list of 2, each a whole number, got"),
        ("kernel", None, "a whole number or a list of 2"),
        ("eps", math.nan, "a finite number, got nan"),
        ("eps", "small", "a finite number, got 'small'"),
        ("eps", -1e-5, "at least 0, got -1e-05"),
        ("act", 3, "a text or None, got 3"),
        ("bias", 1, "True or False, got 1"),
    ],
)
def test_anything_else_is_refused_by_name(name, value, words):
    with pytest.raises(ValueError, match=f"^{name} must be {words.replace('.', '[.]')}"):
        Block(**{"channels": 8, name: value})


def test_the_constructor_says_what_is_missing():
    with pytest.raises(TypeError, match="channels"):
        Block()
    with pytest.raises(TypeError, match="depth"):
        Block(8, depth=2)


def test_signatures_and_subclasses_stay_as_they_are():
    assert list(inspect.signature(Block).parameters)[:2] == ["channels", "sizes"]
    assert Wider(4).arguments[0] == 8
    with pytest.raises(ValueError, match="channels must be a whole number, got 'x'"):
        Wider("x")
    assert checks_arguments(Wider) is Wider  # once, however many names the class has


@checks_arguments
class Sized:
    def __init__(self, size: tuple[int, int], depth: int = 1) -> None:
        if not isinstance(size, tuple):
            raise ValueError(f"size must be (H, W), got {size}.")
        self.area = size[0] * size[1] * depth


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"size": 7}, r"size must be \(H, W\), got 7"),  # its own words say more
        ({"size": ("x", "y")}, "size must be a list of 2, each a whole number"),  # in place of a TypeError
        ({"size": (2, 2.0)}, "size must be a list of 2"),  # which it would have taken
        ({"size": (2, 3), "depth": None}, "depth must be a whole number, got None"),
    ],
)
def test_a_constructor_that_knows_better_speaks_for_itself(arguments, words):
    with pytest.raises(ValueError, match=words):
        Sized(**arguments)
