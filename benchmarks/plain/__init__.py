"""The straightforward formulation of every attention mechanism of the zoo, as public repositories write it.

Written for comparison only: the same mathematics on the same weights, without any of the zoo's rewritings. Nothing here
is copied; every class follows the description of the mathematics, and is checked against the zoo module.
"""

from .case import Case
from .cases import CASES, Pair, make_pair

__all__ = ["CASES", "Case", "Pair", "make_pair"]
