"""The evidence that travels in an ONNX file's metadata: one writer, one typed reader."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

import onnx

from attn_deploy._version import __version__
from attn_deploy.errors import EvidenceError, InvalidRequestError
from attn_deploy.graph.seal import seal_of
from attn_deploy.reading import typed

METADATA_PREFIX = "attn_deploy."
SEAL = METADATA_PREFIX + "seal"
_OVER_EVIDENCE = "2:"  # how a seal begins that covers the evidence too
MISMATCH = "evidence does not match this file: changed after it was proven"


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """How a file was made and what was compared. Empty fields were never written.

    Attributes:
        version: of attn-deploy at the last step; ``torch`` at the export.
        model, arguments: what was exported.
        exporter: whose graph was kept.
        opset: of the file.
        dynamic_axes: that move.
        precision: that the file claims: fp32, fp16, bf16, int8 or fp8.
        parity: the last comparison: maximal error, tolerances, the number of cases.
        typing: how the half types were chosen, see `attn_deploy.conversion.half`.
        quantization: how the 8-bit types were chosen and judged, see `attn_deploy.conversion.quantize`.
        conversion: the last change of the opset.
        record: of the export, see `attn_deploy.exporters.record`.
        history: the steps from the export on, oldest first, each with its name under ``step``.
    """

    version: str = ""
    model: str = ""
    arguments: Mapping[str, Any] | None = None
    exporter: str = ""
    opset: int | None = None
    dynamic_axes: tuple[str, ...] = ()
    torch: str = ""
    precision: str = ""
    parity: Mapping[str, Any] | None = None
    typing: Mapping[str, Any] | None = None
    quantization: Mapping[str, Any] | None = None
    conversion: Mapping[str, Any] | None = None
    record: Mapping[str, Any] = field(default_factory=dict)
    history: tuple[Mapping[str, Any], ...] = ()

    def after(self, step: str, details: Mapping[str, Any], **changes: Any) -> Evidence:
        """The evidence after one more proven step.

        Args:
            step: what was done: export, opset, precision, quantize, simplify.
            details: a few facts of it for the history.
            changes: fields with new values; those that the record of the export holds too change there as well.
        """
        record = dict(self.record)
        if record:
            record.update({k: v for k, v in changes.items() if k in ("opset", "precision", "parity", "typing")})
        history = (*self.history, {"step": step, "version": __version__, **details})
        return replace(self, **changes, version=__version__, record=record, history=history)


def write_evidence(model: onnx.ModelProto, evidence: Evidence) -> None:
    """Put the evidence into a model's metadata in place of what is there, with a seal over the graph as it is now.

    Metadata of others stays.
    """
    entries: dict[str, str] = {}
    for name in _NAMES:
        value = getattr(evidence, name)
        # Of an export, that there are no arguments or no moving axes is a fact; of other files nobody knows.
        if value in ("", None) or (not value and not (evidence.model and name in ("arguments", "dynamic_axes"))):
            continue
        text = value if isinstance(value, str) else json.dumps(value, default=str)
        entries[METADATA_PREFIX + name] = text
    others = [p for p in model.metadata_props if not p.key.startswith(METADATA_PREFIX)]
    del model.metadata_props[:]
    model.metadata_props.extend(others)
    for key, text in entries.items():
        model.metadata_props.add(key=key, value=text)
    model.metadata_props.add(key=SEAL, value=_seal(model, entries))


def _seal(model: onnx.ModelProto, entries: Mapping[str, str]) -> str:
    """A seal over the graph and over what is said of it: a number in the evidence is proof too."""
    digest = hashlib.sha256(seal_of(model).encode())
    for key, text in sorted(entries.items()):
        digest.update(f"{key} {len(text)} {text}".encode(errors="surrogatepass"))
    return _OVER_EVIDENCE + digest.hexdigest()


def read_evidence(model: onnx.ModelProto) -> Evidence | None:
    """The evidence in a model's metadata; None for a file that this program did not write.

    Raises:
        EvidenceError: if an entry is damaged; the message names it.
    """
    entries = entries_of(model)
    values: dict[str, Any] = {}
    for name in _NAMES:
        if name in entries:
            values[name] = _value(name, entries[name])
    _check_types({k: v for k, v in values.items() if v})
    return Evidence(**values) if values else None


def entries_of(model: onnx.ModelProto) -> dict[str, str]:
    """The metadata entries that this program wrote, without the prefix.

    Raises:
        EvidenceError: if an entry is not text.
    """
    try:
        return {
            p.key.removeprefix(METADATA_PREFIX): p.value
            for p in model.metadata_props
            if p.key.startswith(METADATA_PREFIX)
        }
    except UnicodeDecodeError as error:
        raise EvidenceError(f"the metadata of the file is damaged: {error}. Copy or export the file again.") from error


def seal_state(model: onnx.ModelProto) -> str:
    """``whole`` if graph and evidence are those that were proven, ``broken`` if one changed since, empty without a seal.

    Raises:
        EvidenceError: if the metadata is not text.
    """
    entries = {METADATA_PREFIX + k: v for k, v in entries_of(model).items()}
    seal = entries.pop(SEAL, None)
    if seal is None:
        return ""
    right = _seal(model, entries) if seal.startswith(_OVER_EVIDENCE) else seal_of(model)  # as earlier versions wrote it
    return "whole" if seal == right else "broken"


_NAMES = tuple(f.name for f in fields(Evidence))
_TEXTS = ("version", "model", "exporter", "torch", "precision")
_LISTS = ("dynamic_axes", "history")


def _value(name: str, text: str) -> Any:
    if name in _TEXTS:
        return text
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _damaged(name, text) from error
    if name == "opset":
        fits = isinstance(value, int) and not isinstance(value, bool)
    elif name in _LISTS:
        kind = str if name == "dynamic_axes" else dict
        fits = isinstance(value, list) and all(isinstance(v, kind) for v in value)
        value = tuple(value) if fits else value
    else:
        fits = isinstance(value, dict) or (value is None and name != "record")
    if not fits:
        raise _damaged(name, text)
    return value


def _check_types(values: Mapping[str, Any]) -> None:
    """Refuse fields that a command would read and that are of another type than it expects.

    Raises:
        EvidenceError: naming the field.
    """
    fields_read = {k: values[k] for k in ("record", "parity", "conversion", "typing", "history") if k in values}
    if not fields_read:
        return
    from attn_deploy.graph.notes import EvidenceNote

    record = dict(fields_read.get("record", {}))
    arguments = record.pop("arguments", {})  # of any kind, as constructors take them
    if not isinstance(arguments, dict):
        raise _damaged("record", f"one with arguments {arguments!r}")
    try:
        typed({**fields_read, "record": record}, EvidenceNote)
    except InvalidRequestError as error:
        raise EvidenceError(
            f"the evidence in the file is damaged: {METADATA_PREFIX}{error} Export or convert the file again from its source."
        ) from error


def _damaged(name: str, text: str) -> EvidenceError:
    return EvidenceError(
        f"the evidence in the file is damaged: {METADATA_PREFIX}{name} is {text[:40]!r}. Export or convert the file again "
        "from its source."
    )
