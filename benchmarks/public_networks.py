"""Public networks by name, with defaults: which export right, with which axes, beside both plain exporters.

    python benchmarks/public_networks.py [WORDS ...] [--output record.json] [--plain] [--timeout 900] [--list]

Each network is exported in a process of its own, as ``attn_deploy.export(NAME)`` does it. The file is then compared with a
fresh model of the same weights at batches and sizes of this script's own, which the exporter has not seen. With
``--plain`` the same model goes through ``torch.onnx.export``, with ``dynamo=True`` and with ``dynamo=False``, and is
compared in the same way at the axes that ours moves. WORDS choose the networks whose names hold one of them.

The packages are timm, torchvision, transformers, segmentation-models-pytorch and ultralytics: ``pip install --no-deps``
where their pins would bring another torch. A network whose package is not installed is counted as absent.

Exits with 1 when a file is silently wrong, or when plain exports right what ours refuses.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from attn_deploy.files import write_atomic

_TIMM = [
    "resnet50",
    "resnext50_32x4d",
    "regnety_008",
    "densenet121",
    "vgg16_bn",
    "inception_v3",
    "xception41",
    "dla34",
    "hrnet_w18_small",
    "res2net50_26w_4s",
    "efficientnet_b0",
    "tf_efficientnet_b0",
    "tf_efficientnetv2_b0",
    "mobilenetv2_100",
    "mobilenetv3_large_100",
    "mobilenetv4_conv_small",
    "ghostnet_100",
    "ghostnetv3_100",
    "mnasnet_100",
    "convnext_tiny",
    "convnextv2_nano",
    "convmixer_768_32",
    "repvgg_a0",
    "mobileone_s0",
    "fastvit_t8",
    "vit_tiny_patch16_224",
    "vit_small_patch14_dinov2",
    "deit_tiny_patch16_224",
    "deit3_small_patch16_224",
    "cait_xxs24_224",
    "swin_tiny_patch4_window7_224",
    "swinv2_tiny_window8_256",
    "twins_svt_small",
    "nest_tiny",
    "pvt_v2_b0",
    "xcit_nano_12_p16_224",
    "coat_tiny",
    "crossvit_tiny_240",
    "levit_128s",
    "mobilevit_xs",
    "mobilevitv2_050",
    "maxvit_tiny_rw_224",
    "coatnet_nano_rw_224",
    "davit_tiny",
    "efficientformer_l1",
    "efficientvit_b0",
    "edgenext_xx_small",
    "poolformer_s12",
    "focalnet_tiny_srf",
    "mvitv2_tiny",
    "samvit_base_patch16_224",
    "beit_base_patch16_224",
    "eva02_tiny_patch14_224",
    "hiera_tiny_224",
    "tiny_vit_5m_224",
    "visformer_tiny",
    "gcvit_xxtiny",
]
_TORCHVISION = [
    "resnet18",
    "efficientnet_v2_s",
    "shufflenet_v2_x1_0",
    "swin_t",
    "vit_b_16",
    "fcn_resnet50",
    "deeplabv3_mobilenet_v3_large",
    "lraspp_mobilenet_v3_large",
]
_TRANSFORMERS = [
    "ViTModel",
    "Dinov2Model",
    "SwinModel",
    "SegformerForSemanticSegmentation",
    "MobileViTModel",
    "DetrForObjectDetection",
    "RTDetrForObjectDetection",
    "DepthAnythingForDepthEstimation",
    "Mask2FormerForUniversalSegmentation",
]
_SMP = ["Unet", "UnetPlusPlus", "FPN", "PSPNet", "DeepLabV3Plus", "MAnet", "Linknet", "PAN"]
_ULTRALYTICS = ["yolov8n", "yolo11n", "yolo12n"]
NETWORKS = (
    *(f"timm:{n}" for n in _TIMM),
    *(f"torchvision:{n}" for n in _TORCHVISION),
    *(f"transformers:{n}" for n in _TRANSFORMERS),
    *(f"smp:{n}" for n in _SMP),
    *(f"ultralytics:{n}" for n in _ULTRALYTICS),
)
SLICE = ("timm:resnet50", "timm:vit_tiny", "timm:swin_tiny", "timm:mobilenetv3", "smp:FPN")  # of the slow tests
_SCALES = ((1, 1.25, 0.75), (3, 0.75, 1.5), (2, 1.5, 1.25))  # batch, height, width; of the traced sizes
_SEED = 0


@dataclass(frozen=True, slots=True)
class Attempt:
    """One exporter on one network.

    Attributes:
        outcome: right, wrong, refused or absent.
        axes: that move in the file.
        error: largest error against a fresh model, in units of what is allowed.
        seconds, peak_mb: processor time and peak memory of the process.
        latency_ms: of one run of batch 1 in ONNX Runtime, the median of eleven.
        reason: of a refusal, or of what stays.
    """

    outcome: str
    axes: tuple[str, ...] = ()
    error: float = 0.0
    seconds: float = 0.0
    peak_mb: float = 0.0
    latency_ms: float = 0.0
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """A network, and what became of it with each exporter."""

    name: str
    attempts: dict[str, Attempt] = field(default_factory=dict)


def _ours(name: str, path: Path) -> tuple[tuple[str, ...], str]:
    from attn_deploy import export

    artifact = export(name, path)
    fixed = artifact.record.get("fixed", {})
    return artifact.dynamic_axes, "; ".join(f"{s} {why}" for s, why in fixed.items())


def _plain(dynamo: bool) -> Callable[[str, Path], tuple[tuple[str, ...], str]]:
    def run(name: str, path: Path) -> tuple[tuple[str, ...], str]:
        import torch

        model, inputs = _made(name)
        example = tuple(torch.from_numpy(a) for a in _arrays(inputs, 2, 1.0, 1.0).values())
        axes = {i.name: {a: d for a, d in enumerate(i.dims) if isinstance(d, str)} for i in inputs}
        names = [i.name for i in inputs]
        if dynamo:
            shapes = tuple(dict.fromkeys(axes[n], torch.export.Dim.DYNAMIC) for n in names)
            torch.onnx.export(
                model, example, path, dynamo=True, dynamic_shapes=shapes, input_names=names, external_data=False
            )
        else:
            torch.onnx.export(model, example, path, dynamo=False, dynamic_axes=axes, input_names=names)
        return tuple(dict.fromkeys(d for a in axes.values() for d in a.values())), ""

    return run


EXPORTERS: dict[str, Callable[[str, Path], tuple[tuple[str, ...], str]]] = {
    "ours": _ours,
    "dynamo": _plain(True),
    "torchscript": _plain(False),
}


def _made(name: str) -> tuple[Any, Any]:
    """A fresh model with the weights that a name always has, and its inputs."""
    from attn_deploy.resolve.resolve import resolve_seeded

    resolved = resolve_seeded(name, seed=_SEED)
    return resolved.module.eval(), resolved.inputs


def _arrays(inputs: Sequence[Any], batch: int, height: float, width: float, seed: int = 7) -> dict[str, Any]:
    """Smooth images with noise: not the exporter's own test tensors."""
    rng = np.random.default_rng(seed)
    arrays = {}
    for i in inputs:
        sizes = {s: batch if s[0] == "N" else round(n * (height if s[0] == "H" else width)) for s, n in i.sizes.items()}
        arrays[i.name] = rng.uniform(-2, 2, i.shape(sizes)).astype(i.dtype)
    return arrays


def _checked(name: str, path: Path, axes: Sequence[str]) -> tuple[float, float]:
    """The largest error in units of what is allowed, at sizes that move every axis; and the latency."""
    import onnxruntime
    import torch

    from attn_deploy.runtimes.eager import flatten_outputs

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    worst = 0.0
    step = 32  # sizes are multiples of it, which most networks take
    for batch, height, width in _SCALES:
        model, inputs = _made(name)
        first = inputs[0]
        scales = {}
        for letter, factor in (("H", height), ("W", width)):
            extent = next((n for s, n in first.sizes.items() if s[0] == letter), step)
            scales[letter] = round(extent * factor / step) * step / extent if letter in axes else 1.0
        arrays = _arrays(inputs, batch if "N" in axes else first.sizes.get("N", 1), scales["H"], scales["W"])
        with torch.no_grad():
            right = [t.numpy() for t in flatten_outputs(model(*(torch.from_numpy(a) for a in arrays.values())))]
        for expected, got in zip(right, session.run(None, arrays), strict=True):
            allowed = 1e-4 * np.abs(expected) + 1e-5 * max(1.0, float(np.abs(expected).max(initial=0.0)))
            worst = max(worst, float((np.abs(got - expected) / allowed).max(initial=0.0)))
    _, inputs = _made(name)
    arrays = _arrays(inputs, 1 if "N" in axes else inputs[0].sizes.get("N", 1), 1.0, 1.0)
    times = []
    for _ in range(11):
        started = time.perf_counter()
        session.run(None, arrays)
        times.append(1e3 * (time.perf_counter() - started))
    return worst, float(np.median(times))


def _in_process(exporter: str, name: str, answer: Any) -> None:
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory(prefix="attn-deploy-") as folder:
        path = Path(folder, "net.onnx")
        started = time.process_time()
        try:
            axes, reason = EXPORTERS[exporter](name, path)
        except Exception as error:
            absent = type(error).__name__ == "MissingDependencyError"
            text = " ".join(str(error).split())[:300]
            answer.send(Attempt("absent" if absent else "refused", reason=f"{type(error).__name__}: {text}"))
            return
        seconds = time.process_time() - started
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        try:
            error, latency = _checked(name, path, axes)
        except Exception as failure:
            text = f"the file fails where the model runs: {' '.join(str(failure).split())[:200]}"
            answer.send(Attempt("wrong", axes, float("inf"), seconds, peak, reason=text))
            return
        outcome = "right" if error <= 10 else "wrong"  # ten times: float32 of deep networks, judged without float64
        answer.send(Attempt(outcome, axes, error, seconds, peak, latency, reason))


def attempt(exporter: str, name: str, timeout: float) -> Attempt:
    """One exporter on one network, in a process of its own."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_in_process, args=(exporter, name, sender))
    child.start()
    sender.close()
    try:
        if receiver.poll(timeout):
            return receiver.recv()  # type: ignore[no-any-return]
        return Attempt("refused", reason=f"no end in {timeout:.0f} s")
    except EOFError:
        return Attempt("refused", reason="the process died")
    finally:
        child.kill()
        child.join()


def table(rows: Sequence[Row]) -> str:
    """One line for each network and exporter."""
    lines = [f"{'network':<48} {'exporter':<12} {'outcome':<8} {'axes':<8} {'cpu s':>7} {'MB':>7} {'ms':>8}  reason"]
    for row in rows:
        for exporter, a in row.attempts.items():
            lines.append(
                f"{row.name:<48} {exporter:<12} {a.outcome:<8} {''.join(a.axes):<8} {a.seconds:7.1f} {a.peak_mb:7.0f} "
                f"{a.latency_ms:8.2f}  {a.reason[:110]}"
            )
    ours = [r.attempts["ours"] for r in rows]
    counted = [a for a in ours if a.outcome != "absent"]
    whole = sum(a.outcome == "right" and {"N", "H", "W"} <= set(a.axes) for a in counted)
    right = sum(a.outcome == "right" for a in counted)
    wrong = sum(a.outcome == "wrong" for a in counted)
    lines.append(
        f"{right} of {len(counted)} right, {whole} of them with N, H and W; {wrong} wrong; {len(ours) - len(counted)} absent"
    )
    return "\n".join(lines)


def main() -> int:
    """Run, print the table, and keep the record."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("words", nargs="*")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--plain", action="store_true")
    parser.add_argument("--timeout", type=float, default=900.0)
    parser.add_argument("--list", action="store_true")
    options = parser.parse_args()
    names = [n for n in NETWORKS if not options.words or any(w in n for w in options.words)]
    if options.list:
        print("\n".join(names))
        return 0
    rows = []
    for name in names:
        exporters = EXPORTERS if options.plain else {"ours": _ours}
        rows.append(Row(name, {e: attempt(e, name, options.timeout) for e in exporters}))
        print(table(rows[-1:]).splitlines()[1], file=sys.stderr, flush=True)
    print(table(rows))
    if options.output is not None:
        write_atomic(options.output, json.dumps([asdict(r) for r in rows], indent=1).encode())
    lost = [r for r in rows if r.attempts["ours"].outcome == "refused" and _plain_is_right(r)]
    return int(any(r.attempts["ours"].outcome == "wrong" for r in rows) or bool(lost))


def _plain_is_right(row: Row) -> bool:
    return any(a.outcome == "right" for e, a in row.attempts.items() if e != "ours")


if __name__ == "__main__":
    raise SystemExit(main())
