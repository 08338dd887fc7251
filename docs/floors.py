"""Prints the floors of the house and draws them: ``python docs/floors.py [docs/floors.svg]``.

Rooms are the folders and files of ``attn_deploy``; an arrow is an import of one room by another, read from the source by
grimp. The floors are those of the contract in ``pyproject.toml``. Exits with 1 if an arrow runs up, or two rooms of one
floor import each other.
"""

from __future__ import annotations

import ast
import sys
from dataclasses import dataclass
from html import escape
from pathlib import Path

import grimp

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "attn_deploy"
WIDTH, ROOM_HEIGHT, GAP, MARGIN = 1120, 58, 44, 24


@dataclass(frozen=True)
class Room:
    """A folder or file of the package."""

    name: str
    floor: int
    purpose: str
    lines: int


def floors() -> list[list[str]]:
    """The names on each floor, the lowest first, as the contract has them."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    layers = next(c for c in settings["contracts"] if c["type"] == "layers")["layers"]
    return [[name.strip() for name in layer.split("|")] for layer in reversed(layers)]


def rooms() -> dict[str, Room]:
    """Every room with its floor."""
    return {name: _room(name, number) for number, names in enumerate(floors(), start=1) for name in names}


def arrows() -> dict[tuple[str, str], int]:
    """How many imports each room has of each other."""
    graph = grimp.build_graph(PACKAGE)
    counts: dict[tuple[str, str], int] = {}
    for module in graph.modules:
        for imported in graph.find_modules_directly_imported_by(module):
            pair = (_room_of(module), _room_of(imported))
            if pair[0] != pair[1] and all(pair):
                counts[pair] = counts.get(pair, 0) + 1
    return counts


def upward(house: dict[str, Room], imports: dict[tuple[str, str], int]) -> list[tuple[str, str]]:
    """Arrows that do not run to a lower floor."""
    return [(a, b) for a, b in sorted(imports) if house[b].floor >= house[a].floor]


def drawing(house: dict[str, Room], imports: dict[tuple[str, str], int]) -> str:
    """An SVG: a line of rooms for each floor, the top floor above, and an arrow for each import between rooms."""
    top = max(room.floor for room in house.values())
    places: dict[str, tuple[float, float, float]] = {}  # left, top, width
    for floor in range(1, top + 1):
        names = [r.name for r in house.values() if r.floor == floor]
        width = min(250.0, (WIDTH - 2 * MARGIN - GAP * (len(names) - 1)) / len(names))
        left = (WIDTH - (width * len(names) + GAP * (len(names) - 1))) / 2
        for index, name in enumerate(names):
            places[name] = (left + index * (width + GAP), MARGIN + (top - floor) * (ROOM_HEIGHT + GAP), width)
    height = 2 * MARGIN + top * (ROOM_HEIGHT + GAP) - GAP
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="system-ui, sans-serif">',
        "<title>The floors of attn_deploy: each room imports only from lower floors</title>",
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
    ]
    for (a, b), count in sorted(imports.items()):
        (ax, ay, aw), (bx, by, bw) = places[a], places[b]
        parts.append(
            f'<path d="M{ax + aw / 2:.0f} {ay + ROOM_HEIGHT:.0f} C{ax + aw / 2:.0f} {ay + ROOM_HEIGHT + 40:.0f} '
            f'{bx + bw / 2:.0f} {by - 40:.0f} {bx + bw / 2:.0f} {by:.0f}" fill="none" stroke="#5b7a9d" '
            f'stroke-opacity="0.28" stroke-width="{min(4.0, 0.6 + count / 12):.1f}"/>'
        )
    for name, (left, y, width) in places.items():
        room = house[name]
        parts.append(
            f'<g><title>{escape(room.purpose)}</title><rect x="{left:.0f}" y="{y:.0f}" width="{width:.0f}" '
            f'height="{ROOM_HEIGHT}" rx="7" fill="#f3f6fa" stroke="#3a5a7d"/>'
            f'<text x="{left + width / 2:.0f}" y="{y + 26:.0f}" text-anchor="middle" font-size="17" '
            f'font-weight="600" fill="#16283c">{name}</text><text x="{left + width / 2:.0f}" y="{y + 45:.0f}" '
            f'text-anchor="middle" font-size="12" fill="#52677f">{room.lines:,} lines</text></g>'
        )
    return "\n".join([*parts, "</svg>\n"])


def _room(name: str, floor: int) -> Room:
    path = ROOT / PACKAGE / name
    files = sorted(path.rglob("*.py")) if path.is_dir() else [path.with_suffix(".py")]
    first = path / "__init__.py" if path.is_dir() else files[0]
    purpose = (ast.get_docstring(ast.parse(first.read_text(encoding="utf-8"))) or "").partition("\n")[0]
    return Room(name, floor, purpose, sum(len(f.read_text(encoding="utf-8").splitlines()) for f in files))


def _room_of(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] != "__main__" else ""


def main() -> int:
    """Print the floors, write the drawing if a path is named; 1 if an arrow runs up."""
    house, imports = rooms(), arrows()
    for floor in sorted({r.floor for r in house.values()}, reverse=True):
        for room in (r for r in house.values() if r.floor == floor):
            uses = ", ".join(b for a, b in sorted(imports) if a == room.name) or "nothing"
            print(f"{floor:>3}  {room.name:<11} {room.lines:>6,} lines  {room.purpose}\n{'':18}imports {uses}")
    wrong = upward(house, imports)
    print(f"{len(house)} rooms on {len(floors())} floors, {len(imports)} arrows, {len(wrong)} of them upward")
    for a, b in wrong:
        print(f"  {a} (floor {house[a].floor}) imports {b} (floor {house[b].floor})")
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(drawing(house, imports), encoding="utf-8")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
