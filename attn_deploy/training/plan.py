"""What a training table is of: backbone, modules, data, recipe, seeds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attn_deploy.errors import CheckpointError, InvalidRequestError
from attn_deploy.reading import read_typed
from attn_deploy.training.recipe import Recipe

SCHEMA_VERSION = 1


PLAN, SUMMARY, DEPLOYED, REFUSED = "table.json", "summary.json", "deployed.json", "refused.json"


PLAIN = "none"  # the backbone with nothing in its slots: always the first row


@dataclass(frozen=True, slots=True, kw_only=True)
class TablePlan:
    """What a table is of.

    Attributes:
        backbone: its name, with arguments where it has any.
        modules: what is put into its slots, the plain backbone first.
        dataset: cifar10, digits or folder.
        source: what its training images are, in the words of the set.
        recipe: how all are trained.
        seeds: 0 to this number - 1, of each row.
        more_seeds: of the plain backbone, and of the ``best`` rows by their first seeds; 0 for no more than the others.
        best: how many rows get them.
    """

    backbone: str
    modules: tuple[str, ...]
    dataset: str
    source: str
    recipe: Recipe
    seeds: int
    more_seeds: int = 0
    best: int = 0

    def name(self, module: str) -> str:
        """The model of a row."""
        return self.backbone if module == PLAIN else f"{self.backbone}+{module}"

    def folder(self, root: Path, module: str, seed: int) -> Path:
        """Where a run stands."""
        from attn_deploy.resolve.names import parse_name

        return root / f"{parse_name(self.name(module)).stem}-s{seed}"

    def seeds_of(self, module: str, *, among_best: bool = False) -> int:
        """How many seeds a row is to have."""
        return max(self.seeds, self.more_seeds) if module == PLAIN or among_best else self.seeds

    @property
    def most_seeds(self) -> int:
        """The most that any row has."""
        return max(self.seeds, self.more_seeds)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data."""
        return {
            "schema_version": SCHEMA_VERSION,
            "backbone": self.backbone,
            "modules": list(self.modules),
            "dataset": self.dataset,
            "source": self.source,
            "recipe": self.recipe.to_dict(),
            "seeds": self.seeds,
            "more_seeds": self.more_seeds,
            "best": self.best,
        }

    @classmethod
    def read(cls, root: Path) -> TablePlan:
        """The plan of a folder.

        Raises:
            CheckpointError: if there is none, or it cannot be read.
        """
        path = root / PLAN
        try:
            return read_typed(path, cls, "the plan of a table", schema=SCHEMA_VERSION, signed=())
        except InvalidRequestError as error:
            raise CheckpointError(str(error)) from error
