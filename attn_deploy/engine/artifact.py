"""An engine file, the sidecar beside it, and the check that both belong together."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from attn_deploy.engine.network import EngineTensor, NetworkSummary
from attn_deploy.engine.options import BuildOptions
from attn_deploy.engine.profile import Profile
from attn_deploy.errors import EngineMismatchError, reason_of
from attn_deploy.files import sha256_of, write_atomic
from attn_deploy.reading import typed

SCHEMA_VERSION = 1
_AMPERE = 80


@dataclass(frozen=True, slots=True)
class EngineArtifact:
    """What is known about a finished engine. The plan file itself is plain: any tool of its flavor can load it.

    Attributes:
        path, sha256, size: the plan file; size in bytes.
        sidecar: the JSON file that holds all of this.
        flavor, version: the library that built it, and the only one that may load it.
        device: the GPU that it was built on; None for an ahead-of-time build.
        options: how it was built; ``options.targets`` are the compute capabilities that it runs on.
        profiles: the shapes that it accepts; none for static shapes.
        network: layers, precision and interface, read from the network that was built.
        onnx, onnx_sha256: the graph that it was built from, external data included in the hash.
        request: everything that decides whether it can be used again for a later build.
        warnings: what the library said.
        parse_seconds, build_seconds: wall time.
        created: UTC, ISO 8601.
        argv: the command that built it.
        attn_deploy: version of this package.
        reason: why it was built, or why it could be used again.
        reused: whether it was there already.
    """

    path: Path
    sidecar: Path
    sha256: str
    size: int
    flavor: str
    version: str
    device: str | None
    options: BuildOptions
    profiles: tuple[Profile, ...]
    network: NetworkSummary
    onnx: Path
    onnx_sha256: str
    request: Mapping[str, Any]
    warnings: tuple[str, ...]
    parse_seconds: float
    build_seconds: float
    created: str
    argv: tuple[str, ...]
    attn_deploy: str
    reason: str
    reused: bool = False

    @property
    def targets(self) -> tuple[str, ...]:
        """The compute capabilities that the engine runs on, such as ``sm86``."""
        return self.options.targets

    @property
    def precision(self) -> str:
        """The precision of the network's layers, such as ``fp16`` or ``int8+fp16``."""
        return self.network.precision

    @property
    def inputs(self) -> tuple[EngineTensor, ...]:
        """The engine's inputs."""
        return self.network.inputs

    @property
    def outputs(self) -> tuple[EngineTensor, ...]:
        """The engine's outputs."""
        return self.network.outputs

    @property
    def rebuild_command(self) -> str:
        """The command that builds this engine again."""
        return rebuild_command(self.onnx, self.path, self.flavor, self.options, self.profiles)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data, which ``from_dict`` reads."""
        return {
            "schema_version": SCHEMA_VERSION,
            "path": str(self.path),
            "sidecar": str(self.sidecar),
            "sha256": self.sha256,
            "size": self.size,
            "flavor": self.flavor,
            "version": self.version,
            "device": self.device,
            "targets": list(self.targets),
            "precision": self.precision,
            "options": self.options.to_dict(),
            "profiles": [p.to_dict() for p in self.profiles],
            "network": self.network.to_dict(),
            "onnx": str(self.onnx),
            "onnx_sha256": self.onnx_sha256,
            "request": dict(self.request),
            "warnings": list(self.warnings),
            "parse_seconds": self.parse_seconds,
            "build_seconds": self.build_seconds,
            "created": self.created,
            "argv": list(self.argv),
            "attn_deploy": self.attn_deploy,
            "reason": self.reason,
            "reused": self.reused,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], path: Path) -> EngineArtifact:
        """The artifact that ``to_dict`` wrote, now lying at ``path``.

        Raises:
            InvalidRequestError: if a field is missing or of another type; the message names it.
        """
        sidecar = typed(data, _Sidecar, signed=("request",))
        values = {f.name: getattr(sidecar, f.name) for f in fields(_Sidecar)}
        profiles = tuple(map(Profile.from_dict, sidecar.profiles))
        return cls(
            **{**values, "path": path, "sidecar": sidecar_of(path), "profiles": profiles, "onnx": Path(sidecar.onnx)}
        )

    def check_loadable(self, flavor: str, version: str, target: str | None = None) -> None:
        """Refuse what the library would refuse, or crash on, when it deserializes the plan.

        Args:
            flavor: the library that is about to load the engine.
            version: its version.
            target: compute capability of the GPU, such as ``sm89``.

        Raises:
            EngineMismatchError: with what the engine is for, what is here, and the rebuild command.
        """
        if flavor != self.flavor:
            raise self._mismatch(
                f"was built by {self.flavor} {self.version} and cannot be loaded by {flavor} {version}"
            )
        same_major = version.split(".")[0] == self.version.split(".")[0]
        newer = same_major and _numbers(version) >= _numbers(self.version)
        if version != self.version and not (self.options.version_compat and newer):
            raise self._mismatch(f"was built by {self.flavor} {self.version}, and here is version {version}")
        if target is not None and not self._runs_on(target):
            raise self._mismatch(f"runs on {', '.join(self.targets)}, and the GPU here is {target}")

    def check_fresh(self) -> None:
        """Refuse an engine whose ONNX file has changed since; one whose file is elsewhere, as on a device, is taken.

        Raises:
            EngineMismatchError: with both hashes and the rebuild command.
        """
        source = self.onnx if self.onnx.is_absolute() else self.path.parent / self.onnx.name
        if not source.is_file() or sha256_of(source) == self.onnx_sha256:
            return
        from google.protobuf.message import DecodeError

        from attn_deploy.engine.fingerprint import onnx_sha256

        try:
            digest = onnx_sha256(source)
        except (DecodeError, OSError):  # no graph any more, or without its weights
            digest = sha256_of(source)
        if digest != self.onnx_sha256:
            raise self._mismatch(
                f"is stale: it was built from a {source.name} with the SHA-256 {self.onnx_sha256[:12]}..., and that file "
                f"has {digest[:12]}... now"
            )

    def _runs_on(self, target: str) -> bool:
        ampere_plus = self.options.hardware_compat == "ampere-plus"
        return target in self.targets or (ampere_plus and int(target.removeprefix("sm")) >= _AMPERE)

    def _mismatch(self, why: str) -> EngineMismatchError:
        return EngineMismatchError(f"{self.path} {why}. Build it again: {self.rebuild_command}")


@dataclass(frozen=True, slots=True)
class _Sidecar:
    """The sidecar as it stands in a file."""

    sha256: str
    size: int
    flavor: str
    version: str
    device: str | None
    options: BuildOptions
    profiles: tuple[Mapping[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]], ...]
    network: NetworkSummary
    onnx: str
    onnx_sha256: str
    request: Mapping[str, Any]
    warnings: tuple[str, ...]
    parse_seconds: float
    build_seconds: float
    created: str
    argv: tuple[str, ...]
    attn_deploy: str
    reason: str
    reused: bool = False


def sidecar_of(engine: Path) -> Path:
    """Where the facts about an engine lie."""
    return engine.with_name(engine.name + ".json")


def rebuild_command(onnx: Path, engine: Path, flavor: str, options: BuildOptions, profiles: tuple[Profile, ...]) -> str:
    """A command line that builds the engine, as it could be typed."""
    default = BuildOptions()
    words = ["attn-deploy", "build", str(onnx), "-o", str(engine), "--flavor", flavor]
    if options.targets and flavor == "tensorrt-rtx":
        words += ["--target", ",".join(options.targets)]
    for profile in profiles:
        for entry in profile.ranges:
            words += ["--profile", str(entry)]
    if options.tf32:
        words += ["--tf32"]
    if options.workspace is not None:
        words += ["--workspace", str(options.workspace)]
    if options.opt_level is not None:
        words += ["--opt-level", str(options.opt_level)]
    if options.hardware_compat != default.hardware_compat:
        words += ["--hardware-compat", options.hardware_compat]
    if options.version_compat:
        words += ["--version-compat"]
    return shlex.join(words)


def write_sidecar(artifact: EngineArtifact, path: Path) -> None:
    """Write an artifact's facts, sealed with a checksum so that an edit by hand is noticed."""
    data = artifact.to_dict()
    write_atomic(path, json.dumps({**data, "checksum": _checksum(data)}, indent=2) + "\n")


def read_engine(path: Path | str) -> EngineArtifact:
    """Read an engine's sidecar and check that it describes these bytes.

    Raises:
        EngineMismatchError: if the engine or its sidecar is missing, edited or cut short.
    """
    path = Path(path)
    sidecar = sidecar_of(path)
    again = f"Build it again: attn-deploy build MODEL.onnx -o {shlex.quote(str(path))} --force"
    if not path.is_file():
        raise EngineMismatchError(f"{path} not found: no such engine file. {again}", exit_code=2)
    if not sidecar.is_file():
        raise EngineMismatchError(
            f"{path} has no {sidecar.name} beside it, so nobody knows which library, version and GPU it is for. {again}"
        )
    try:
        data = json.loads(sidecar.read_text(encoding="utf-8"))
        checksum = data.pop("checksum")
        sound = checksum == _checksum(data) and data["schema_version"] == SCHEMA_VERSION
        artifact = EngineArtifact.from_dict(data, path) if sound else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise EngineMismatchError(
            f"{sidecar} cannot be read ({type(error).__name__}: {reason_of(error)}). {again}"
        ) from error
    if artifact is None:
        raise EngineMismatchError(
            f"{sidecar} was changed after it was written, or is of another schema than {SCHEMA_VERSION}, so it proves "
            f"nothing about the engine. {again}"
        )
    size = path.stat().st_size
    if size != artifact.size:
        raise EngineMismatchError(
            f"{path} has {size} bytes and was written with {artifact.size}: it was cut short or replaced. "
            f"Build it again: {artifact.rebuild_command} --force"
        )
    digest = sha256_of(path)
    if digest != artifact.sha256:
        raise EngineMismatchError(
            f"{path} has the SHA-256 {digest[:12]}..., its sidecar says {artifact.sha256[:12]}...: it was changed after "
            f"it was built. Build it again: {artifact.rebuild_command} --force"
        )
    return artifact


def _checksum(data: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(p) for p in version.split(".") if p.isdigit())
