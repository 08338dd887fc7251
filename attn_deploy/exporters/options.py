"""What an export is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from attn_deploy.errors import InvalidRequestError, OpsetError
from attn_deploy.graph.versions import MAX_OPSET, MIN_OPSET
from attn_deploy.rules.rules import rule

DEFAULT_OPSET = 20
EXPORTERS = ("auto", "dynamo", "torchscript")
# The lowest opset that torch's torch.export exporter has operators for; below, it stamps 18 and says so in a log line.
DYNAMO_MIN_OPSET = 18
# The highest opset that the TorchScript exporter has operators for; above, it stamps the number on opset 20's.
TORCHSCRIPT_MAX_OPSET = 20
# Files from the TorchScript exporter are converted up to here.
TORCHSCRIPT_LAST_OPSET = 22
# From opset 23 on the torch.export exporter writes the operator Attention, which TensorRT has few kernels for.
DECOMPOSED_MAX_OPSET = 22


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportOptions:
    """Options of one export.

    Attributes:
        opset: version of the standard operator set that the file must hold, 13 to 25; 23 and above with ``dynamo`` only.
        exporter: ``dynamo`` (torch.export), ``torchscript``, or ``auto``: the one that is native for the opset first,
            the other when the first fails or does not verify.
        dynamic: axis symbols that must move; a letter stands for every symbol that begins with it. None: all that the
            model allows.
        simplify: simplify the graph; the unsimplified one is kept when the simplifier fails or changes the numbers.
        fuse: rewrite the model into its deployed form first (see `attn_deploy.fuse`).
        rewrite: replace, in a copy, the calls that exporters are known to get wrong.
        native_attention: write the operator Attention, which enters ONNX at opset 23; otherwise products and a softmax.
        verify: compare with eager at shapes that were not traced, and refuse the file when they differ.
        precision: fp32, fp16 or bf16: the type of everything but what the rules keep in fp32.
        io: ``fp32`` keeps inputs and outputs in fp32, ``same`` gives them the precision's type.
        external_data: weights in a data file beside the graph, also where one file would hold them.

    Raises:
        OpsetError: if the opset is outside 13 to 25, below 22 with bf16, or above what the exporter or the attention asked
            for has.
        PrecisionError: if the precision is unknown.
        InvalidRequestError: if the exporter or ``io`` is unknown, or half precision is asked for without verification.
    """

    opset: int = DEFAULT_OPSET
    exporter: str = "auto"
    dynamic: tuple[str, ...] | None = None
    simplify: bool = True
    fuse: bool = True
    rewrite: bool = True
    native_attention: bool = False
    verify: bool = True
    precision: str = "fp32"
    io: str = "fp32"
    external_data: bool = False

    def __post_init__(self) -> None:
        if not MIN_OPSET <= self.opset <= MAX_OPSET:
            raise OpsetError(
                f"opset {self.opset} is not supported: choose {MIN_OPSET} to {MAX_OPSET} "
                f"(17 for older runtimes, {DEFAULT_OPSET} by default, 22 for bfloat16, 23 and above for newer runtimes).",
                exit_code=2,
            )
        if self.exporter not in EXPORTERS:
            raise InvalidRequestError(f"exporter {self.exporter!r} is unknown: choose {', '.join(EXPORTERS)}.")
        _refuse_quantized(self.precision)
        if self.precision != "fp32":
            from attn_deploy.graph.precision.types import (
                half_type,  # needs onnx_ir, and a device without it asks for opsets
            )

            half_type(self.precision).check(self.io, self.opset)
            if not self.verify:
                raise InvalidRequestError(
                    f"--precision {self.precision} decides by measured ranges and proves the result, which --no-verify "
                    "forbids: leave out one of the two."
                )
        elif self.io != "fp32":
            raise InvalidRequestError(f"--io {self.io} belongs to --precision fp16 or bf16, which was not given.")
        if self.exporter == "torchscript" and self.opset > TORCHSCRIPT_LAST_OPSET:
            raise OpsetError(
                f"asked for opset {self.opset} with the TorchScript exporter, which ends at {TORCHSCRIPT_LAST_OPSET}: use "
                f"--exporter dynamo, or --opset {TORCHSCRIPT_LAST_OPSET}.",
                exit_code=2,
            )
        if self.native_attention and (self.opset <= DECOMPOSED_MAX_OPSET or self.exporter == "torchscript"):
            entry = rule("native-attention")
            raise OpsetError(
                f"--native-attention needs opset {DECOMPOSED_MAX_OPSET + 1} or above, asked for was {self.opset}: "
                f"{entry.explanation}. {entry.remedy}",
                exit_code=2,
                rule=entry.id,
            )

    @staticmethod
    def default_opset(precision: str) -> int:
        """The opset of a file for which none was asked: the least, from the usual one up, that has the precision."""
        if precision == "fp32":
            return DEFAULT_OPSET
        _refuse_quantized(precision)
        from attn_deploy.graph.precision.types import half_type

        return max(DEFAULT_OPSET, half_type(precision).first_opset)

    @classmethod
    def asked(cls, *, opset: int | None, precision: str, **rest: Any) -> ExportOptions:
        """The options of a command, with the opset that the precision needs where none is named."""
        return cls(opset=cls.default_opset(precision) if opset is None else opset, precision=precision, **rest)

    def exporter_order(self) -> tuple[str, ...]:
        """The exporters to try, in order."""
        if self.exporter != "auto":
            return (self.exporter,)
        native = ("dynamo", "torchscript")
        if self.opset > TORCHSCRIPT_LAST_OPSET:
            return native[:1]
        return native if self.opset >= DYNAMO_MIN_OPSET else native[::-1]


def check_export(
    *, opset: int | None, precision: str, preprocess: str | None = None, postprocess: str | None = None, **rest: Any
) -> None:
    """Refuse what no export can be asked for, before torch is imported.

    Args:
        opset: of the file; None for that of the precision.
        precision: fp32, fp16 or bf16.
        preprocess: a text as for `attn_deploy.export`.
        postprocess: a text as for `attn_deploy.export`.
        **rest: other fields of `ExportOptions`.

    Raises:
        AttnDeployError: as `ExportOptions`, and for texts that cannot be read.
    """
    from attn_deploy.exporters.answers import parse_postprocess
    from attn_deploy.exporters.pixels import parse_preprocess

    ExportOptions.asked(opset=opset, precision=precision, **rest)
    if preprocess is not None:
        parse_preprocess(preprocess)
    if postprocess is not None:
        parse_postprocess(postprocess)


def _refuse_quantized(precision: str) -> None:
    if precision in ("int8", "fp8"):
        raise InvalidRequestError(
            f"export writes fp32, fp16 or bf16, and {precision} needs ranges that are measured on data: attn-deploy quantize "
            f"MODEL --precision {precision} exports the model and quantizes it."
        )
