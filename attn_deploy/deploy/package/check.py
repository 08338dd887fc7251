"""`attn-deploy verify DIR`: a package checked where it lies, by the same code as its own ``verify.py``."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from attn_deploy.deploy.package.standalone.verify import UnusableError, check
from attn_deploy.errors import AttnDeployError
from attn_deploy.graph.artifact import open_model


@dataclass(frozen=True, slots=True)
class PackageCheck:
    """What a check of a package says.

    Attributes:
        path: the package.
        problems: what is wrong, in words; none where all is well.
        remarks: what ran where.
    """

    path: str
    problems: tuple[str, ...]
    remarks: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether every file is as it was, and every answer right."""
        return not self.problems

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data."""
        return {**asdict(self), "passed": self.passed}


def verify_package(folder: Path | str, engine: str | None = None) -> PackageCheck:
    """Check every file of a package by its hash, and the model on the golden inputs.

    Args:
        folder: the package.
        engine: name of an engine of the package to run in place of the ONNX file.

    Raises:
        AttnDeployError: if the folder is no package, or a runtime is missing.
    """
    folder = Path(folder)
    model = folder / "model.onnx"
    if engine is None and model.is_file():
        open_model(model)  # what is damaged, without end or beyond the memory is refused before it runs
    try:
        problems, remarks = check(folder, engine)
    except UnusableError as error:
        raise AttnDeployError(str(error), exit_code=error.code) from error
    return PackageCheck(str(folder), tuple(problems), tuple(remarks))
