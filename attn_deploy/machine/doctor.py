"""What is installed, and does it work? Each package is tried in a child process, for a broken one may crash."""

from __future__ import annotations

import importlib.metadata
import platform
import re
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from attn_deploy.errors import WorkerError
from attn_deploy.graph.opset import MAX_OPSET
from attn_deploy.isolate import run_isolated
from attn_deploy.machine.environment import Environment, describe_environment

State = Literal["ok", "missing", "warning", "broken"]

SCHEMA_VERSION = 1
PROBE_TIMEOUT = 120.0
MIN_PYTHON = (3, 10)
RTX_CAPABILITIES = ("7.5", "8.6", "8.9", "12.0", "12.1")  # the vendor's support matrix


@dataclass(frozen=True, slots=True)
class InstalledPackage:
    """One package that attn-deploy uses.

    Attributes:
        name: as shown.
        distributions: names under which it may be installed.
        minimum: least version that pyproject.toml asks for.
        install: what brings it.
        purpose: what it is for.
        probe: name of a function in `attn_deploy.machine.probes`.
    """

    name: str
    distributions: tuple[str, ...]
    minimum: str
    install: str
    purpose: str
    probe: str = "imported"


PACKAGES = (
    InstalledPackage("torch", ("torch",), "2.9", "attn-deploy", "models, export, eager", "torch"),
    InstalledPackage("numpy", ("numpy",), "1.26", "attn-deploy", "arrays"),
    InstalledPackage("onnx", ("onnx",), "1.18", "attn-deploy", "ONNX files", "onnx"),
    InstalledPackage("onnxscript", ("onnxscript",), "0.5", "attn-deploy", "the torch.export exporter"),
    InstalledPackage("safetensors", ("safetensors",), "0.4", "attn-deploy", "weights"),
    InstalledPackage(
        "onnxruntime",
        ("onnxruntime", "onnxruntime-gpu"),
        "1.20",
        "attn-deploy[cpu]",
        "verification, profiling",
        "onnxruntime",
    ),
    InstalledPackage("openvino", ("openvino",), "2025.0", "attn-deploy[openvino]", "profiling on CPUs"),
    InstalledPackage("pooch", ("pooch",), "1.8", "attn-deploy[data]", "downloading CIFAR-10"),
    InstalledPackage("PIL", ("pillow",), "10", "attn-deploy[data]", "folders of images"),
    InstalledPackage("onnxsim", ("onnxsim",), "0.8", "attn-deploy[simplify]", "simplifying"),
    InstalledPackage("onnxslim", ("onnxslim",), "0.1.90", "attn-deploy[simplify]", "simplifying, second choice"),
    InstalledPackage(
        "tensorrt_rtx",
        ("tensorrt-rtx", "tensorrt-rtx-cu13", "tensorrt-rtx-cu13-bindings", "tensorrt-rtx-cu12-bindings"),
        "1.4",
        "attn-deploy[rtx]",
        "TensorRT-RTX engines",
        "tensorrt_rtx",
    ),
    InstalledPackage(
        "tensorrt",
        ("tensorrt", "tensorrt-cu13", "tensorrt-cu12", "tensorrt-cu13-bindings", "tensorrt-cu12-bindings"),
        "8.5",
        "attn-deploy[tensorrt]",
        "TensorRT engines",
        "tensorrt",
    ),
    InstalledPackage(
        "tensorrt_lean",
        ("tensorrt-lean-cu12", "tensorrt-lean-cu13", "tensorrt-lean-cu12-bindings", "tensorrt-lean-cu13-bindings"),
        "11",
        "attn-deploy[lean]",
        "running version-compatible engines without TensorRT",
    ),
    InstalledPackage("cuda.bindings", ("cuda-python", "cuda-bindings"), "12", "attn-deploy[device]", "running engines"),
)


@dataclass(frozen=True, slots=True)
class InstalledCheck:
    """One line of the answer.

    Attributes:
        name: what was looked at.
        state: ok; missing: not installed, and only what needs it is unavailable; warning: works with a limit that
            should be known; broken: installed and unusable.
        found: version, or what else was found.
        detail: what it can do, or what is wrong.
        remedy: what to do, where there is something.
        facts: everything the probe measured.
    """

    name: str
    state: State
    found: str = ""
    detail: str = ""
    remedy: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class DoctorReport:
    """What is installed and works."""

    environment: Environment
    checks: tuple[InstalledCheck, ...]
    schema_version: int = SCHEMA_VERSION

    @property
    def healthy(self) -> bool:
        """Whether nothing that is installed is broken."""
        return all(c.state != "broken" for c in self.checks)

    def check(self, name: str) -> InstalledCheck:
        """The check of that name."""
        return next(c for c in self.checks if c.name == name)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data."""
        return {**asdict(self), "healthy": self.healthy}


def examine_machine(progress: Callable[[str], None] | None = None) -> DoctorReport:
    """Look at this installation.

    Args:
        progress: called with a few words at each step.
    """
    report = progress or (lambda _: None)
    report("looking at the machine")
    environment = describe_environment()
    installed = {p.name: _installed(p) for p in PACKAGES}
    present = [p for p in PACKAGES if installed[p.name]]
    report(f"trying {', '.join(p.name for p in present)}")
    with ThreadPoolExecutor(max_workers=2) as pool:  # the children do the work, and most machines have two cores
        probed = dict(zip((p.name for p in present), pool.map(_probe, present), strict=True))
    checks = [_python_check(), _gpu_check(environment)]
    checks += [
        judge_package(p, installed[p.name], probed[p.name]) if installed[p.name] else _missing(p, environment)
        for p in PACKAGES
    ]
    checks += compatibility({c.name: c for c in checks}, environment)
    return DoctorReport(environment, tuple(checks))


def judge_package(package: InstalledPackage, installed: Mapping[str, str], facts: Mapping[str, Any]) -> InstalledCheck:
    """The check of an installed package, from its distributions and what its probe said."""
    name, version = package.name, next(iter(installed.values()))
    versions = ", ".join(f"{d} {v}" for d, v in installed.items()) if len(installed) > 1 else version
    reinstall = f"pip install --force-reinstall --no-deps {next(iter(installed))}"
    if name == "onnxruntime" and len(installed) > 1:
        return InstalledCheck(
            name,
            "broken",
            versions,
            "two builds of one package are installed, and they overwrite each other's files",
            "pip uninstall -y onnxruntime onnxruntime-gpu, then pip install 'attn-deploy[cpu]' or 'attn-deploy[gpu]'",
            facts,
        )
    if "error" in facts:
        return InstalledCheck(name, "broken", versions, str(facts["error"]), facts.get("remedy") or reinstall, facts)
    if version_key(version) < version_key(package.minimum):
        why = f"version {version} is older than {package.minimum}, the oldest that is supported"
        return InstalledCheck(name, "broken", versions, why, f"pip install --upgrade {_quoted(package.install)}", facts)
    state: State = "warning" if facts.get("warning") else "ok"
    return InstalledCheck(name, state, versions, facts.get("detail") or package.purpose, facts.get("remedy", ""), facts)


def compatibility(checks: Mapping[str, InstalledCheck], environment: Environment) -> list[InstalledCheck]:
    """Checks of versions with each other."""
    findings = []
    onnx, ort = checks["onnx"].facts, checks["onnxruntime"].facts
    if "max_opset" in onnx and "max_opset" in ort:
        detail = (
            f"onnx writes up to opset {onnx['max_opset']}, onnxruntime runs up to {ort['max_opset']} "
            f"(IR version {ort['max_ir']})"
        )
        state: State = "ok" if ort["max_opset"] >= MAX_OPSET else "warning"
        remedy = "" if state == "ok" else f"for opsets up to {MAX_OPSET}: pip install --upgrade onnxruntime"
        findings.append(InstalledCheck("opsets", state, f"up to {ort['max_opset']}", detail, remedy))
    findings += _gpu_pairs(checks, environment)
    return findings


def _gpu_pairs(checks: Mapping[str, InstalledCheck], environment: Environment) -> list[InstalledCheck]:
    """Checks of packages with the GPU and its driver; none without a GPU."""
    findings = []
    torch = checks["torch"].facts
    if environment.gpus and torch.get("cuda") and environment.cuda:
        wanted, served = str(torch["cuda"]), environment.cuda
        works = int(wanted.split(".")[0]) <= int(served.split(".")[0])
        detail = f"torch is built for CUDA {wanted}, the driver serves up to CUDA {served}"
        remedy = "" if works else "install a newer driver, or a torch build for an older CUDA"
        findings.append(InstalledCheck("cuda", "ok" if works else "broken", served, detail, remedy))
    for capability in dict.fromkeys(g.compute_capability for g in environment.gpus):
        if checks["tensorrt_rtx"].state == "ok" and capability not in RTX_CAPABILITIES:
            detail = (
                f"TensorRT-RTX does not run engines on compute capability {capability}, only on "
                f"{', '.join(RTX_CAPABILITIES)}"
            )
            findings.append(InstalledCheck("rtx on gpu", "warning", capability, detail, "use TensorRT on this GPU"))
    usable = checks["onnxruntime"].facts.get("usable", ())
    if environment.gpus and checks["onnxruntime"].state == "ok" and "CUDA" not in usable:
        detail = f"onnxruntime does not run on the GPU; providers that work: {', '.join(usable)}"
        remedy = "pip uninstall -y onnxruntime, then pip install 'attn-deploy[gpu]'"
        if "CUDA" in checks["onnxruntime"].facts.get("compiled_in", ()):
            remedy = "install CUDA and cuDNN of the versions that onnxruntime-gpu names when it is imported"
        findings.append(InstalledCheck("onnxruntime on gpu", "warning", "", detail, remedy))
    return findings


def version_key(version: str) -> tuple[int, ...]:
    """The numbers of a version, for comparing: ``2.13.0+cpu`` is (2, 13, 0)."""
    match = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(int(n) for n in match[0].split(".")) if match else ()


def _installed(package: InstalledPackage) -> dict[str, str]:
    versions = {}
    for name in package.distributions:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    if package.name != "onnxruntime":  # elsewhere the first is a shell around the others
        return dict(list(versions.items())[:1])
    return versions


def _probe(package: InstalledPackage) -> dict[str, Any]:
    try:
        facts = run_isolated(
            f"attn_deploy.machine.probes:{package.probe}",
            {"name": package.name},
            what=f"importing {package.name}",
            timeout=PROBE_TIMEOUT,
        )
    except WorkerError as error:
        return {"error": str(error)}
    return dict(facts)


def _missing(package: InstalledPackage, environment: Environment) -> InstalledCheck:
    install = package.install
    if package.name == "onnxruntime" and environment.gpus:
        install = "attn-deploy[gpu]"
    return InstalledCheck(package.name, "missing", "", f"not installed; needed for: {package.purpose}", _pip(install))


def _python_check() -> InstalledCheck:
    version = platform.python_version()
    if sys.version_info[:2] < MIN_PYTHON:
        wanted = ".".join(map(str, MIN_PYTHON))
        return InstalledCheck("python", "broken", version, f"older than {wanted}", f"use Python {wanted} or newer")
    return InstalledCheck("python", "ok", version, f"{platform.python_implementation()}, {platform.platform()}")


def _gpu_check(environment: Environment) -> InstalledCheck:
    if not environment.gpus:
        return InstalledCheck("gpu", "missing", "", "nvidia-smi lists no NVIDIA GPU; engines can be built, not run")
    names = ", ".join(f"{g.name} (compute capability {g.compute_capability})" for g in environment.gpus)
    driver = f"driver {environment.gpus[0].driver}, CUDA up to {environment.cuda or 'unknown'}"
    return InstalledCheck("gpu", "ok", names, driver)


def _quoted(requirement: str) -> str:
    return f"'{requirement}'" if "[" in requirement else requirement


def _pip(requirement: str) -> str:
    return f"pip install {_quoted(requirement)}"
