"""Checks that a tag, the package's version and CHANGELOG agree: ``python docs/check_release.py v0.2.0``."""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def problems(tag: str, root: Path = ROOT) -> list[str]:
    """What does not agree; empty if all does."""
    if not re.fullmatch(r"v\d+\.\d+\.\d+", tag):
        return [f"the tag {tag!r} is not of the form v1.2.3."]
    number = tag[1:]
    module = re.search(r'__version__ = "([^"]+)"', (root / "attn_deploy" / "_version.py").read_text(encoding="utf-8"))
    project = re.search(r'^version = "([^"]+)"', (root / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    heads = re.findall(r"^## \[?([^\]\s]+)", (root / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    lines = []
    for name, match in (("attn_deploy/_version.py", module), ("pyproject.toml", project)):
        version = match[1] if match else "no version"
        if version != number:
            lines.append(f"{name} has {version}, the tag is {number}.")
    if number not in heads:
        lines.append(f"CHANGELOG.md has no section {number}; its sections are {', '.join(heads) or 'none'}.")
    return lines + _unaddressed(root)


def _unaddressed(root: Path) -> list[str]:
    """What a page of a package index would lack: the project's own address, and links that lead somewhere from there."""
    if "[project.urls]" not in (root / "pyproject.toml").read_text(encoding="utf-8"):
        return ["pyproject.toml has no [project.urls]: write the address that the project has by now, as Repository."]
    readme = root / "README.md"
    links = re.findall(r"\]\((?!https?://|#)([^)]+)\)", readme.read_text(encoding="utf-8")) if readme.is_file() else []
    return (
        [f"README.md links to {links[0]} and {len(links) - 1} others that lead nowhere from a package index."]
        if links
        else []
    )


def main() -> int:
    """Print what does not agree; 1 if anything."""
    lines = problems(sys.argv[1] if len(sys.argv) > 1 else "")
    print("\n".join(lines) or "tag, version and CHANGELOG agree")
    return 1 if lines else 0


if __name__ == "__main__":
    raise SystemExit(main())
