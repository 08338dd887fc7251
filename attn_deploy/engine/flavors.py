"""The TensorRT libraries behind one adapter, and what each of them can do.

Some capabilities are data, measured on the libraries, because the bindings do not report them: TensorRT-RTX has the version
compatibility flag and then fails to build with it, and has a timing cache that does nothing. Others are asked of the
module, because releases of one library differ: TensorRT 8.5 has neither strong typing nor a progress monitor.
"""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from attn_deploy.errors import EngineError, InvalidRequestError, MissingDependencyError

NEEDED_OF_ENGINES = "num_io_tensors"


@dataclass(frozen=True, slots=True)
class FlavorSpec:
    """What is known about a TensorRT library without importing it.

    Attributes:
        name: as in ``--flavor``.
        title: for messages.
        modules: import names, in the order to try.
        extra: the pip extra that brings it.
        has_aot: builds for named compute capabilities, on a machine without a GPU.
        has_timing_cache: remembers kernel timings between builds.
        has_version_compat: can make engines that later versions load.
        has_hardware_compat: can make engines that other GPU generations load.
        default_targets: compute capabilities of an ahead-of-time build.
        lean_modules: import names of a runtime that builds nothing (see `attn_deploy.engine.lean`).
    """

    name: str
    title: str
    modules: tuple[str, ...]
    extra: str
    has_aot: bool
    has_timing_cache: bool
    has_version_compat: bool
    has_hardware_compat: bool
    default_targets: tuple[str, ...] = ()
    lean_modules: tuple[str, ...] = ()


FLAVORS = {
    "tensorrt-rtx": FlavorSpec(
        name="tensorrt-rtx",
        title="TensorRT-RTX",
        modules=("tensorrt_rtx", "tensorrt_rtx_bindings"),
        extra="rtx",
        has_aot=True,
        has_timing_cache=False,
        has_version_compat=False,
        has_hardware_compat=False,
        default_targets=("sm86", "sm89", "sm120"),
    ),
    "tensorrt": FlavorSpec(
        name="tensorrt",
        title="TensorRT",
        modules=("tensorrt",),
        extra="tensorrt",
        has_aot=False,
        has_timing_cache=True,
        has_version_compat=True,
        has_hardware_compat=True,
        lean_modules=("tensorrt_lean", "tensorrt_lean_bindings"),
    ),
}


@dataclass(frozen=True, slots=True)
class Flavor:
    """An imported TensorRT library.

    Attributes:
        spec: what it can do.
        trt: the module.
        version: the library's own version.
        lean: whether it is the runtime alone, which builds nothing and lists no kernels.
    """

    spec: FlavorSpec
    trt: Any
    version: str
    lean: bool = False

    def __str__(self) -> str:
        return f"{self.spec.title} {self.version}{' (lean runtime)' if self.lean else ''}"

    @property
    def strongly_typed(self) -> bool:
        """Whether the precision of a layer is what the ONNX graph says; if not, flags permit precisions."""
        return hasattr(self.trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED")

    @property
    def network_flags(self) -> int:
        """How networks are created: strongly typed where that exists, else with an explicit batch axis, as ONNX has it."""
        kinds = self.trt.NetworkDefinitionCreationFlag
        return 1 << int(kinds.STRONGLY_TYPED if self.strongly_typed else kinds.EXPLICIT_BATCH)

    @property
    def has_version_compat(self) -> bool:
        """Whether engines can be made that later versions load."""
        return self.spec.has_version_compat and hasattr(self.trt.BuilderFlag, "VERSION_COMPATIBLE")

    @property
    def has_hardware_compat(self) -> bool:
        """Whether engines can be made that other GPU generations load."""
        return self.spec.has_hardware_compat and hasattr(self.trt, "HardwareCompatibilityLevel")

    @property
    def has_opt_level(self) -> bool:
        """Whether build time can be traded for the engine's speed."""
        return hasattr(self.trt.IBuilderConfig, "builder_optimization_level")

    @property
    def has_progress(self) -> bool:
        """Whether a build tells how far it is, and can be cancelled from inside."""
        return hasattr(self.trt, "IProgressMonitor")

    @property
    def has_runtime_cache(self) -> bool:
        """Whether kernels are compiled when an engine runs, and can be kept in a file."""
        return hasattr(self.trt, "IRuntimeCache")

    @property
    def known_targets(self) -> tuple[str, ...]:
        """The compute capabilities that can be named, such as ``sm86``; empty without ahead-of-time builds."""
        if not self.spec.has_aot:
            return ()
        members: dict[str, Any] = self.trt.ComputeCapability.__members__
        return tuple(sorted((m.lower() for m in members if m.startswith("SM")), key=lambda m: int(m[2:])))


def flavor_spec(name: str) -> FlavorSpec:
    """Look up a flavor.

    Raises:
        InvalidRequestError: if there is none of that name.
    """
    spec = FLAVORS.get(name.lower().replace("_", "-"))
    if spec is None:
        raise InvalidRequestError(f"the flavor {name!r} is unknown; use auto, {' or '.join(sorted(FLAVORS))}.")
    return spec


def is_installed(spec: FlavorSpec) -> bool:
    """Whether a package of that name is there, importable or not."""
    return _is_there(spec.modules)


def lean_is_installed(spec: FlavorSpec) -> bool:
    """Whether the lean runtime of a flavor is there, importable or not."""
    return _is_there(spec.lean_modules)


def _is_there(modules: tuple[str, ...]) -> bool:
    return any(map(_is_importable, modules))


def _is_importable(module: str) -> bool:
    try:
        spec = importlib.util.find_spec(module)
    except ValueError:  # imported, by something that says nothing of where it comes from
        return True
    return spec is not None and spec.origin is not None  # no origin: just a folder of that name


def check_installed(name: str) -> None:
    """Refuse early, without importing anything.

    Raises:
        InvalidRequestError: if the flavor is unknown.
        MissingDependencyError: if it is not installed, or, for ``auto``, if none is.
    """
    spec = choose_flavor(name, targets_given=False, gpu_present=True)
    if not is_installed(spec):
        raise _missing(spec)


def choose_flavor(name: str, *, targets_given: bool, gpu_present: bool) -> FlavorSpec:
    """Resolve ``auto``: TensorRT where it is installed and has a GPU to build on, else TensorRT-RTX.

    Raises:
        InvalidRequestError: if the name is unknown.
        MissingDependencyError: if it is ``auto`` and none is installed.
    """
    if name != "auto":
        return flavor_spec(name)
    full, rtx = FLAVORS["tensorrt"], FLAVORS["tensorrt-rtx"]
    if is_installed(full) and not targets_given and (gpu_present or not is_installed(rtx)):
        return full
    if is_installed(rtx):
        return rtx
    raise MissingDependencyError(
        "building an engine needs TensorRT-RTX or TensorRT, and neither is installed. "
        "pip install 'attn-deploy[rtx]' (plain PyPI, builds without a GPU), or 'attn-deploy[tensorrt]'."
    )


def load_flavor(spec: FlavorSpec) -> Flavor:
    """Import the library.

    Raises:
        MissingDependencyError: if it is not installed.
        EngineError: if it is installed and cannot be used.
    """
    trt = _import(spec)
    version = str(getattr(trt, "__version__", "of unknown version"))
    kinds = trt.NetworkDefinitionCreationFlag
    if not (hasattr(kinds, "STRONGLY_TYPED") or hasattr(kinds, "EXPLICIT_BATCH")) or not hasattr(
        trt.ICudaEngine, NEEDED_OF_ENGINES
    ):
        raise EngineError(
            f"{spec.title} {version} is too old: engines are addressed by tensor names, which 8.5 brought. Upgrade it, or "
            "use --flavor tensorrt-rtx.",
            exit_code=3,
        )
    return Flavor(spec, trt, version)


def _import(spec: FlavorSpec) -> ModuleType:
    for name in spec.modules:
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name == name:
                continue
            raise broken(spec, name, error) from error
        except Exception as error:  # a library that is there may fail in any way: ImportError, OSError, RuntimeError
            raise broken(spec, name, error) from error
        if hasattr(module, "Builder"):
            return module
        if getattr(module, "__file__", None) is not None:
            raise broken(spec, name, AttributeError(f"module {module.__file__} has no Builder"))
    raise _missing(spec)


def _missing(spec: FlavorSpec) -> MissingDependencyError:
    if lean_is_installed(spec):
        return MissingDependencyError(
            f"of {spec.title} only the lean runtime is installed: it runs engines and builds none. Install {spec.title}: "
            f"pip install 'attn-deploy[{spec.extra}]' (its libraries need the vendor's index)."
        )
    return MissingDependencyError(
        f"{spec.title} is not installed: there is no module {spec.modules[0]!r}. pip install 'attn-deploy[{spec.extra}]'"
        + (" (plain PyPI, works without a GPU)." if spec.has_aot else " (its libraries need the vendor's index).")
    )


def broken(spec: FlavorSpec, module: str, error: Exception, *, extra: str | None = None) -> EngineError:
    """The error of a library that is there and does not import; ``extra`` is the pip extra that brings it again."""
    return EngineError(
        f"{spec.title} is installed and cannot be used: importing {module!r} failed with {type(error).__name__}: "
        f"{' '.join(str(error).split())}. Reinstall it: pip install --force-reinstall 'attn-deploy[{extra or spec.extra}]'.",
        exit_code=3,
    )
