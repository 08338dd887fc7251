"""The committed vectors of the official code: one for each registry entry, small enough for a checkout.

``python -m export_tests.modules.vectors FOLDER`` makes them from the folder with all vectors. Of each entry the
configuration that costs fewest bytes is kept, of its batch the first sample where the module treats samples one by one (the
first output of the official code is then that of the first sample alone, which is checked with our module), of each output an
eighth of its values at positions that a generator seeded with the file's name draws. Inputs that several files share lie
once in ``inputs.npz``. Every number is the official code's; none is ours.
"""

from __future__ import annotations

import hashlib
import json
import sys
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from attn_deploy import create, load_official_state_dict, registry
from export_tests.helpers import as_tuple, read_vectors
from export_tests.modules.reference_cases import REFERENCE_CASES

FOLDER = Path(__file__).with_name("vectors")
INPUTS = "inputs.npz"
SHARE, LEAST = 8, 256  # one value in eight of an output is kept, and no fewer than these
BUDGET = 12_000_000  # bytes of the whole folder


@dataclass(frozen=True)
class Vector:
    """One committed vector: inputs, the official state dict, and some values of each output."""

    stem: str
    inputs: list[torch.Tensor]
    state: dict[str, torch.Tensor]
    shapes: list[tuple[int, ...]]
    values: list[np.ndarray]

    def picked(self, outputs: tuple[torch.Tensor, ...]) -> list[np.ndarray]:
        """The same values of other outputs."""
        return [
            output.numpy().reshape(-1)[positions(f"{self.stem}/{index}", output.numel())]
            for index, output in enumerate(outputs)
        ]


def positions(name: str, count: int) -> np.ndarray:
    """Which elements of a flattened output are kept."""
    kept = min(count, max(LEAST, count // SHARE))
    return np.sort(np.random.default_rng(zlib.crc32(name.encode())).choice(count, kept, replace=False))


def stems(folder: Path = FOLDER) -> dict[str, str]:
    """The committed file of each registry entry."""
    return json.loads((folder / "entries.json").read_text(encoding="utf-8"))


def read_vector(stem: str, folder: Path = FOLDER) -> Vector:
    """One committed vector."""
    with (
        np.load(folder / INPUTS, allow_pickle=False) as shared,
        np.load(folder / f"{stem}.npz", allow_pickle=False) as file,
    ):
        keys = json.loads(str(file["inputs"]))
        shapes = [tuple(s) for s in json.loads(str(file["shapes"]))]
        state = {k.split("__", 1)[1]: torch.from_numpy(file[k]) for k in file.files if k[0] == "p" and "__" in k}
        values = [file[f"output{i}"] for i in range(len(shapes))]
        return Vector(stem, [torch.from_numpy(shared[k]) for k in keys], state, shapes, values)


def write_vectors(source: Path, folder: Path = FOLDER) -> int:
    """Write the vectors of every entry that has one; the bytes of the folder."""
    folder.mkdir(exist_ok=True)
    for path in folder.glob("*.npz"):
        path.unlink()
    shared: dict[str, np.ndarray] = {}
    entries: dict[str, str] = {}
    cases: dict[str, list[str]] = {}
    for stem, (name, _) in REFERENCE_CASES.items():
        cases.setdefault(registry.get(name).name, []).append(stem)
    for entry, members in sorted(cases.items()):
        stem = min(members, key=lambda s: (_cost(source / f"{s}.npz"), s))
        entries[entry] = stem
        _write(source, stem, folder, shared)
    np.savez_compressed(folder / INPUTS, **shared)
    (folder / "entries.json").write_text(json.dumps(entries, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return sum(p.stat().st_size for p in folder.iterdir())


def _cost(path: Path) -> float:
    """Bytes that a vector would take, the first sample alone."""
    with np.load(path, allow_pickle=False) as file:
        arrays = {k: file[k] for k in file.files}
    batch = max(1, max(len(a) for k, a in arrays.items() if k.startswith("input") and a.ndim))
    state = sum(a.nbytes for k, a in arrays.items() if k[0] == "p" and "__" in k)
    return state + sum(a.nbytes / batch / (SHARE if k[0] == "o" else 1) for k, a in arrays.items() if k[0] in "io")


def _write(source: Path, stem: str, folder: Path, shared: dict[str, np.ndarray]) -> None:
    vectors = read_vectors(source / f"{stem}.npz")
    inputs, outputs = vectors["inputs"], vectors["outputs"]
    single = _first_sample(stem, vectors)
    if single is not None:
        inputs, outputs = single
    keys = []
    for tensor in inputs:
        array = tensor.numpy()
        key = hashlib.sha256(str((array.dtype, array.shape)).encode() + array.tobytes()).hexdigest()[:12]
        shared[key] = array
        keys.append(key)
    arrays = {f"p{n:03d}__{k}": v.numpy() for n, (k, v) in enumerate(vectors["state"].items())}
    for index, output in enumerate(outputs):
        arrays[f"output{index}"] = output.reshape(-1)[positions(f"{stem}/{index}", output.size)]
    arrays["inputs"] = np.array(json.dumps(keys))
    arrays["shapes"] = np.array(json.dumps([o.shape for o in outputs]))
    np.savez_compressed(folder / f"{stem}.npz", **arrays)


def _first_sample(stem: str, vectors: dict) -> tuple[list[torch.Tensor], list[np.ndarray]] | None:
    """Inputs and official outputs of the first sample; None where the module does not treat samples one by one."""
    inputs, outputs = vectors["inputs"], vectors["outputs"]
    batch = len(inputs[0]) if inputs[0].dim() else 0
    if batch < 2 or any(not i.dim() or len(i) != batch for i in inputs) or any(len(o) != batch for o in outputs):
        return None
    name, arguments = REFERENCE_CASES[stem]
    module = create(name, **arguments)
    load_official_state_dict(module, vectors["state"])
    first = [i[:1].clone() for i in inputs]
    try:
        with torch.no_grad():
            alone = as_tuple(module.eval()(*first))
    except (ValueError, RuntimeError):
        return None
    expected = [o[:1].copy() for o in outputs]
    close = all(
        a.shape == e.shape and np.allclose(a.numpy(), e, rtol=1e-4, atol=1e-5 * max(1.0, float(np.abs(e).max())))
        for a, e in zip(alone, expected, strict=True)
    )
    return (first, expected) if close else None


def main() -> int:
    """Write the folder; 1 if it is over its budget."""
    size = write_vectors(Path(sys.argv[1]))
    print(f"{len(stems())} entries, {size:,} bytes in {FOLDER}")
    return 0 if size <= BUDGET else 1


if __name__ == "__main__":
    raise SystemExit(main())
