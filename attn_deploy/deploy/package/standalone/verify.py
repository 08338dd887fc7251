"""Checks this package where it lies: every byte by its hash, and the model on golden inputs.

    python verify.py                            the ONNX file, in ONNX Runtime
    python verify.py --engine NAME.engine       an engine of the package, in its TensorRT (needs cuda-python too)

Needs numpy and the runtime, nothing else. Exit code 0: all is well; 1: something is not; 2: usage; 3: a runtime is missing.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

Arrays = dict[str, Any]
# The widest that any precision is judged by; what allows more would pass anything.
_WIDEST = {"rtol": 0.2, "atol": 0.2, "floor": 1.0}
_LEAST_AGREEMENT = 0.8


class UnusableError(Exception):
    """The check cannot be made; the exit code says why."""

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)
        self.code = code


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a package.

    Raises:
        UnusableError: if there is none, it was changed, or it is not one.
    """
    path = folder / "manifest.json"
    if not path.is_file():
        raise UnusableError(f"{folder} is no package: it holds no manifest.json.", 2)
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        seal = manifest.pop("seal")
        text = json.dumps(manifest, sort_keys=True)
    except (OSError, ValueError, AttributeError, KeyError, TypeError, RecursionError) as error:
        raise UnusableError(f"{path} is damaged; copy the package again.", 1) from error
    if hashlib.sha256(text.encode()).hexdigest() != seal:
        raise UnusableError(f"{path} was changed after the package was made; copy the package again.", 1)
    problem = next((f"{path}: {p}" for p in _misfits(dict(manifest))), None)
    if problem is not None:
        raise UnusableError(problem, 1)
    return dict(manifest)


def _misfits(manifest: dict[str, Any]) -> list[str]:
    """What of a manifest is not of its kind: a seal says that nobody changed it since, not who wrote it."""
    files, tolerance, engines = (manifest.get(k) for k in ("files", "tolerance", "engines"))
    problems = []
    if not isinstance(files, dict) or not all(
        isinstance(f, dict) and isinstance(f.get("sha256"), str) for f in files.values()
    ):
        return ["files must name each file with its sha256."]
    problems += [f"it has no hash of {n}." for n in ("model.onnx", "golden.npz", "verify.py") if n not in files]
    outside = [n for n in files if n.startswith("/") or "\\" in n or ":" in n or ".." in n.split("/")]
    problems += [f"the file {n!r} is not in the folder." for n in outside]
    if not _is_tolerance(tolerance):
        problems.append(f"tolerance is {str(tolerance)[:80]}, which nothing can be judged by.")
    if not isinstance(engines, list) or not all(_is_engine(e, files) for e in engines):
        problems.append("engines must name each engine with its library and tolerance.")
    if not isinstance(manifest.get("runtime"), str):
        problems.append("runtime must be text.")
    if not isinstance(manifest.get("golden"), int) or manifest["golden"] < 1:
        problems.append("golden must be the number of golden inputs, at least 1.")
    return problems


def _is_tolerance(value: Any) -> bool:
    """Numbers that a wrong answer can exceed; nothing is packaged with more."""
    if not isinstance(value, dict) or not {*_WIDEST, "agreement"} <= set(value):
        return False
    numbers = [value[k] for k in (*_WIDEST, "agreement")]
    if any(isinstance(n, bool) or not isinstance(n, (int, float)) for n in numbers):
        return False
    return all(0 <= value[k] <= most for k, most in _WIDEST.items()) and _LEAST_AGREEMENT <= value["agreement"] <= 1


def _is_engine(value: Any, files: dict[str, Any]) -> bool:
    texts = isinstance(value, dict) and all(isinstance(value.get(k), str) for k in ("file", "flavor", "version"))
    return texts and value["file"] in files and _is_tolerance(value.get("tolerance"))


def changed_files(folder: Path, manifest: dict[str, Any]) -> list[str]:
    """What of the package is missing, was added, leads elsewhere or is not as it was, in words."""
    problems = []
    for name, facts in manifest["files"].items():
        path = folder / name
        links = path.is_symlink() or any((folder / part).is_symlink() for part in list(Path(name).parents)[:-1])
        if links:
            problems.append(f"{name} is a link to elsewhere")
        elif not path.is_file():
            problems.append(f"{name} is missing")
        elif hash_of(path) != facts["sha256"]:
            problems.append(f"{name} was changed: its hash is not the manifest's")
    known = {*manifest["files"], "manifest.json"}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if name not in known and not path.is_dir() and "__pycache__" not in path.parts:
            problems.append(f"{name} is not in the manifest")
    return problems


def hash_of(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def golden_cases(folder: Path, count: int) -> list[tuple[Arrays, Arrays]]:
    """Inputs and the right outputs of each case.

    Raises:
        UnusableError: if they are not so many, or not such arrays.
    """
    cases: dict[int, tuple[Arrays, Arrays]] = {}
    try:
        with np.load(folder / "golden.npz", allow_pickle=False) as file:
            for key in file.files:
                number, kind, name = key.split("/", 2)
                cases.setdefault(int(number), ({}, {}))[("input", "output").index(kind)][name] = file[key]
    except Exception as error:  # whatever an archive can hold in place of arrays
        raise UnusableError(f"golden.npz is damaged ({type(error).__name__}); copy the package again.", 1) from error
    if len(cases) != count or not all(inputs and outputs for inputs, outputs in cases.values()):
        raise UnusableError(f"golden.npz holds {len(cases)} whole cases, and the manifest says {count}.", 1)
    return [cases[k] for k in sorted(cases)]


def wrong_outputs(results: Arrays, right: Arrays, tolerance: dict[str, Any]) -> list[str]:
    """What differs by more than the tolerance, in words."""
    if list(results) != list(right):
        return [f"the outputs are {', '.join(results)}, expected {', '.join(right)}"]
    problems = []
    for name, expected in right.items():
        value = results[name]
        if value.dtype.kind not in "iubf" or expected.dtype.kind not in "iubf":
            problems.append(f"{name} is of type {value.dtype}, expected {expected.dtype}: no numbers to compare")
        elif not expected.size:
            problems.append(f"{name} is empty: nothing was compared")
        elif value.shape != expected.shape:
            problems.append(f"{name} has the shape {value.shape}, expected {expected.shape}")
        elif expected.dtype.kind in "iub":
            share = float((value == expected).mean())
            if share < tolerance["agreement"]:
                problems.append(
                    f"{name}: {share:.1%} of the choices are right, and {tolerance['agreement']:.0%} must be"
                )
        else:
            value, expected = value.astype(np.float64), expected.astype(np.float64)
            scale = max(tolerance["floor"], float(np.abs(expected).max(initial=0.0)))
            allowed = tolerance["atol"] * scale + tolerance["rtol"] * np.abs(expected)
            error = np.abs(value - expected)
            if not np.isfinite(value).all():
                problems.append(f"{name} is NaN or infinite")
            elif not (error <= allowed).all():
                problems.append(f"{name}: the largest error is {error.max():.3g}, and {allowed.min():.3g} is allowed")
    return problems


def run_onnx(path: Path, cases: list[tuple[Arrays, Arrays]]) -> tuple[list[Arrays], str]:
    """The results of an ONNX file on the inputs of each case, and the name and version of the runtime."""
    try:
        runtime: Any = importlib.import_module("onnxruntime")
    except ModuleNotFoundError as error:
        raise UnusableError("onnxruntime is not installed: pip install onnxruntime.", 3) from error
    try:
        session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        names = [o.name for o in session.get_outputs()]
        results = [dict(zip(names, session.run(None, inputs), strict=True)) for inputs, _ in cases]
    except Exception as error:  # the runtime has errors of many classes
        raise UnusableError(f"{path.name} does not run: {' '.join(str(error).split())[:300]}", 1) from error
    return results, f"onnxruntime {runtime.__version__}"


def run_engine(path: Path, flavor: str, cases: list[tuple[Arrays, Arrays]]) -> tuple[list[Arrays], str]:
    """The results of an engine on the inputs of each case, and the name and version of the runtime."""
    module = "tensorrt_rtx" if flavor == "tensorrt-rtx" else "tensorrt"
    try:
        library: Any = importlib.import_module(module)
        cuda: Any = importlib.import_module("cuda.bindings.runtime")
    except ImportError as error:
        raise UnusableError(f"{error.name} is not installed; an engine needs {module} and cuda-python.", 3) from error
    logger = library.Logger(library.Logger.ERROR)
    engine = library.Runtime(logger).deserialize_cuda_engine(path.read_bytes())
    if engine is None:
        raise UnusableError(
            f"{path.name} cannot be loaded by {module} {library.__version__}: an engine runs in the version and on the GPUs "
            "that it was built for.",
            1,
        )
    context = engine.create_execution_context()
    results = [_engine_case(library, cuda, engine, context, inputs) for inputs, _ in cases]
    return results, f"{module} {library.__version__}"


def _engine_case(library: Any, cuda: Any, engine: Any, context: Any, inputs: Arrays) -> Arrays:
    """One run, on the default stream."""
    names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
    hosts: Arrays = {n: np.asarray(a, order="C") for n, a in inputs.items()}
    for name, array in inputs.items():
        context.set_input_shape(name, array.shape)
    outputs = [n for n in names if engine.get_tensor_mode(n) == library.TensorIOMode.OUTPUT]
    for name in outputs:
        hosts[name] = np.empty(tuple(context.get_tensor_shape(name)), library.nptype(engine.get_tensor_dtype(name)))
    addresses = {}
    try:
        for name, array in hosts.items():
            addresses[name] = _checked(cuda.cudaMalloc(max(1, array.nbytes)))
            context.set_tensor_address(name, int(addresses[name]))
        kinds = cuda.cudaMemcpyKind
        for name in inputs:
            source = hosts[name]
            _checked(cuda.cudaMemcpy(addresses[name], source.ctypes.data, source.nbytes, kinds.cudaMemcpyHostToDevice))
        if not context.execute_async_v3(0):
            raise UnusableError("the engine does not run at these shapes; see its profiles in the sidecar.", 1)
        _checked(cuda.cudaDeviceSynchronize())
        for name in outputs:
            target = hosts[name]
            _checked(cuda.cudaMemcpy(target.ctypes.data, addresses[name], target.nbytes, kinds.cudaMemcpyDeviceToHost))
    finally:
        for address in addresses.values():
            cuda.cudaFree(address)
    return {n: hosts[n] for n in outputs}


def _checked(result: Any) -> Any:
    """The value of a CUDA call."""
    code, *values = result if isinstance(result, tuple) else (result,)
    if int(code) != 0:
        raise UnusableError(f"CUDA says {code!r}.", 3)
    return values[0] if values else None


def check(folder: Path, engine: str | None = None) -> tuple[list[str], list[str]]:
    """Problems and remarks of a package.

    Args:
        folder: the package.
        engine: name of an engine of the package to run in place of the ONNX file.

    Raises:
        UnusableError: if the check cannot be made.
    """
    manifest = read_manifest(folder)
    problems = changed_files(folder, manifest)
    if problems:
        return problems, []
    cases = golden_cases(folder, manifest["golden"])
    tolerance, proven = manifest["tolerance"], manifest["runtime"]
    if engine is None:
        results, ran = run_onnx(folder / "model.onnx", cases)
    else:
        facts = next((e for e in manifest["engines"] if e["file"] in (engine, f"engines/{engine}")), None)
        if facts is None:
            names = ", ".join(e["file"] for e in manifest["engines"]) or "none"
            raise UnusableError(f"the package has no engine {engine!r}; it has {names}.", 2)
        results, ran = run_engine(folder / facts["file"], facts["flavor"], cases)
        proven, tolerance = f"{facts['flavor'].replace('-', '_')} {facts['version']}", facts["tolerance"]
    for number, (result, (_, right)) in enumerate(zip(results, cases, strict=True)):
        problems += [f"golden input {number}: {p}" for p in wrong_outputs(result, right, tolerance)]
    remarks = [f"{len(cases)} golden inputs ran in {ran}"]
    if ran != proven:
        remarks.append(f"the package was proven in {proven}, and this is {ran}")
    return problems, remarks


def main() -> int:
    """Command-line entry."""
    parser = argparse.ArgumentParser(description="Check this package: its bytes, and its model on golden inputs.")
    parser.add_argument("--engine", help="check an engine of the package in place of the ONNX file")
    parser.add_argument("--json", action="store_true", help="print the result as JSON and nothing else")
    options = parser.parse_args()
    try:
        problems, remarks = check(Path(__file__).resolve().parent, options.engine)
    except UnusableError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.code
    if options.json:
        print(json.dumps({"passed": not problems, "problems": problems, "remarks": remarks}, indent=1))
    else:
        for line in (*problems, *remarks):
            print(line)
        print("FAILED" if problems else "ok: every file is as it was, and every answer is right")
    return 1 if problems else 0


if __name__ == "__main__":
    raise SystemExit(main())
