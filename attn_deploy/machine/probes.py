"""What `attn_deploy.machine.doctor` runs in child processes: import a package and make it do a little work.

Each function is called through `attn_deploy.isolate` and returns JSON-ready facts. ``error`` among them means that the
package is installed and unusable, ``warning`` that it works with a limit; ``detail`` and ``remedy`` are for people.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from typing import Any

Facts = dict[str, Any]
Emit = Callable[[Any], None]

_OLDEST_IR = 7


def imported(emit: Emit, name: str) -> Facts:
    """Import a package."""
    return _import(name)[1]


def torch(emit: Emit, name: str) -> Facts:
    """Import torch, run an operator, and ask for CUDA devices."""
    module, facts = _import(name)
    if module is None:
        return facts
    module.ones(2, 2).matmul(module.ones(2, 2))
    facts["cuda"] = module.version.cuda
    facts["devices"] = [module.cuda.get_device_name(i) for i in range(module.cuda.device_count())]
    facts["threads"] = module.get_num_threads()
    if facts["cuda"] is None:
        facts["detail"] = "a build for CPUs"
    elif not module.cuda.is_available():
        facts["detail"] = f"built for CUDA {facts['cuda']}, and finds no device"
    else:
        facts["detail"] = f"CUDA {facts['cuda']} on {', '.join(facts['devices'])}"
    return facts


def onnx(emit: Emit, name: str) -> Facts:
    """Import onnx and ask for the newest opset it knows."""
    module, facts = _import(name)
    if module is None:
        return facts
    facts["max_opset"] = module.defs.onnx_opset_version()
    facts["detail"] = f"opset {facts['max_opset']}, IR version {module.IR_VERSION}"
    return facts


def onnxruntime(emit: Emit, name: str) -> Facts:
    """Import onnxruntime, run a small graph with each provider, and find the newest opset that it accepts."""
    module, facts = _import(name)
    if module is None:
        return facts
    if not hasattr(module, "InferenceSession"):
        facts["error"] = "its folder is damaged, as happens when onnxruntime and onnxruntime-gpu overwrite each other"
        facts["remedy"] = (
            "pip uninstall -y onnxruntime onnxruntime-gpu, then pip install 'attn-deploy[cpu]' or 'attn-deploy[gpu]'"
        )
        return facts
    compiled = [p.removesuffix("ExecutionProvider") for p in module.get_available_providers()]
    facts["compiled_in"] = compiled
    try:
        from onnx import IR_VERSION, defs
    except ImportError:
        facts["detail"] = f"providers compiled in: {', '.join(compiled)} (not tried: onnx is missing)"
        return facts
    # Azure's provider calls a web service; that is nothing to try.
    facts["usable"] = [p for p in compiled if p != "Azure" and _runs(module, p)]
    facts["max_opset"] = next((o for o in range(defs.onnx_opset_version(), 6, -1) if _loads(module, o, _OLDEST_IR)), 0)
    facts["max_ir"] = next((v for v in range(IR_VERSION, 2, -1) if _loads(module, 13, v)), 0)
    idle = [p for p in compiled if p != "Azure" and p not in facts["usable"]]
    facts["detail"] = f"runs on {', '.join(facts['usable']) or 'nothing'}"
    if idle:
        facts["detail"] += f"; compiled in and not usable here: {', '.join(idle)}"
    if "CPU" not in facts["usable"]:
        facts["error"] = "it cannot run a graph of one operator on the CPU"
    return facts


def tensorrt(emit: Emit, name: str) -> Facts:
    """Import TensorRT and make a builder."""
    return _tensorrt(name, (name, f"{name}_bindings"))


def tensorrt_rtx(emit: Emit, name: str) -> Facts:
    """Import TensorRT-RTX and make a builder, which needs no GPU."""
    return _tensorrt(name, (name, f"{name}_bindings"))


def _tensorrt(name: str, candidates: tuple[str, ...]) -> Facts:
    module: Any = None
    facts: Facts = {"error": f"none of the modules {', '.join(candidates)} is there"}
    for candidate in candidates:
        module, facts = _import(candidate)
        if module is not None or not facts.get("absent"):
            break
    if module is None:
        extra = "rtx" if name == "tensorrt_rtx" else "tensorrt"
        facts["remedy"] = f"pip install --force-reinstall 'attn-deploy[{extra}]'"
        if extra == "tensorrt":
            facts["remedy"] += " --extra-index-url https://pypi.nvidia.com (the libraries are on NVIDIA's index only)"
        return facts
    builder = getattr(module, "Builder", None)
    if builder is None:
        facts["error"] = "it has no Builder: the folder holds no complete installation"
        return facts
    logger = module.Logger(module.Logger.ERROR)
    try:
        instance = builder(logger)
    except Exception as error:  # full TensorRT wants a device for a builder
        facts["warning"] = True
        facts["detail"] = f"imports; a builder could not be made here: {_line(error)}"
        return facts
    if instance is None:
        facts["error"] = "its builder could not be made"
        return facts
    facts["detail"] = "builds engines"
    if name == "tensorrt_rtx":
        facts["detail"] = "builds engines, without a GPU too"
    return facts


def _import(name: str) -> tuple[Any, Facts]:
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        return None, {"error": f"import {name} fails: {_line(error)}", "absent": error.name == name}
    except Exception as error:  # a library that is not found, a symbol that is missing, a version check of its own
        return None, {"error": f"import {name} fails: {type(error).__name__}: {_line(error)}"}
    return module, {"version": str(getattr(module, "__version__", ""))}


def _model(opset: int, ir: int) -> bytes:
    from onnx import TensorProto, helper

    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [1]) for n in "xy")
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "probe", [x], [y])
    return bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir).SerializeToString()
    )


def _session(ort: Any, model: bytes, providers: list[str]) -> Any:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    return ort.InferenceSession(model, options, providers=providers)


def _loads(ort: Any, opset: int, ir: int) -> bool:
    try:
        _session(ort, _model(opset, ir), ["CPUExecutionProvider"])
    except Exception:  # the binding raises a dozen classes of its own
        return False
    return True


def _runs(ort: Any, provider: str) -> bool:
    """Whether a session with that provider stays on it and runs: "available" means compiled in, no more."""
    import numpy as np

    wanted = f"{provider}ExecutionProvider"
    try:
        session = _session(ort, _model(13, _OLDEST_IR), [wanted])
        session.run(None, {"x": np.ones(1, np.float32)})
    except Exception:  # as above
        return False
    return bool(session.get_providers()[0] == wanted)


def _line(error: BaseException) -> str:
    return next(_lines(str(error)), type(error).__name__)


def _lines(text: str) -> Iterator[str]:
    return (line.strip()[:300] for line in text.splitlines() if line.strip())
