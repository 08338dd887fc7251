"""The library that runs an engine: the one that built it or, where only that is installed, TensorRT's lean runtime.

The lean runtime (the package ``tensorrt-lean-cu12`` or ``-cu13``, import name ``tensorrt_lean``) is a fiftieth of TensorRT's
size. It builds nothing and lists no kernels, and it loads engines that were built with ``--version-compat`` only, by its own
version or an earlier one of the same major version.
"""

from __future__ import annotations

import ctypes
import importlib
from typing import Any

from attn_deploy.engine.flavors import (
    NEEDED_OF_ENGINES,
    Flavor,
    FlavorSpec,
    broken,
    is_installed,
    lean_is_installed,
    load_flavor,
)
from attn_deploy.errors import EngineError, EngineMismatchError, MissingDependencyError


def load_runtime(spec: FlavorSpec, *, engine: object = None, version_compat: bool = True) -> Flavor:
    """Import what runs engines of a flavor: the whole library where it is installed, else its lean runtime.

    Args:
        spec: the flavor.
        engine: what is to be run, for messages.
        version_compat: whether it was built for other versions to load; only such engines run in the lean runtime.

    Raises:
        MissingDependencyError: if neither is installed.
        EngineMismatchError: if only the lean runtime is, and the engine is not for it.
        EngineError: if what is installed cannot be used.
    """
    if is_installed(spec) or not lean_is_installed(spec):
        return load_flavor(spec)
    lean = _load_lean(spec)
    if not version_compat:
        raise EngineMismatchError(
            f"{engine or 'the engine'} was built without --version-compat, and of {spec.title} only the {lean.version} lean "
            "runtime is installed, which does not load such engines. Build it again with --version-compat where "
            f"{spec.title} is installed, or install {spec.title} here: pip install 'attn-deploy[{spec.extra}]'."
        )
    return lean


def start_runtime(trt: Any, logger: Any) -> Any:
    """A ``Runtime`` of a library, or None with the reason in ``logger.errors``.

    Without a usable driver some bindings raise TypeError, and those of the lean runtime hand out an object around a null
    pointer: to use it, or only to let go of it, kills the process, so such an object is kept for good.
    """
    logger.clear()
    try:
        runtime = trt.Runtime(logger)
    except TypeError:  # what the bindings make of a null pointer
        return None
    if logger.errors:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(runtime))
        return None
    return runtime


def _load_lean(spec: FlavorSpec) -> Flavor:
    errors: list[EngineError] = []
    for name in spec.lean_modules:
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name != name:
                errors.append(broken(spec, name, error, extra="lean"))
            continue
        except Exception as error:  # a library that is there may fail in any way: ImportError, OSError, RuntimeError
            errors.append(broken(spec, name, error, extra="lean"))
            continue
        if hasattr(module, "Runtime") and hasattr(getattr(module, "ICudaEngine", None), NEEDED_OF_ENGINES):
            return Flavor(spec, module, str(getattr(module, "__version__", "of unknown version")), lean=True)
        errors.append(broken(spec, name, AttributeError(f"module {name} has no Runtime of today"), extra="lean"))
    raise errors[0] if errors else MissingDependencyError(f"{spec.title}'s lean runtime is not installed.")
