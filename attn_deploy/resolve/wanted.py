"""What a name asks for, checked before torch is imported: a typo costs a tenth of a second."""

from __future__ import annotations

from pathlib import Path

from attn_deploy import registry
from attn_deploy.errors import InvalidRequestError
from attn_deploy.resolve.names import PICKLES, ModelName, parse_name

_CHECKPOINTS = (".pt", ".pth", ".ckpt", ".bin", ".pkl")
_FILES = {
    ".onnx": "is an ONNX file, and this takes a model: `attn-deploy convert` changes its opset or precision, `quantize` its "
    "precision, `simplify` its nodes, `build` makes an engine of it, and `inspect` and `diagnose` examine it",
    ".engine": "is an engine, and this takes a model: `attn-deploy inspect`, `profile` and `evaluate` take engines",
}


def check_name(text: str, *, files: tuple[str, ...] = ()) -> None:
    """Refuse a name that no model can have; whether a file or a package has the model shows when it is made.

    Args:
        text: a name of the grammar in `attn_deploy.resolve.names`.
        files: endings of files that the caller takes in place of a model, such as ``(".onnx",)``.

    Raises:
        UnknownModelError: if the zoo has no such model, with the closest names.
        InvalidRequestError: if it is no name, or a file of a kind that is no model.
    """
    ending = Path(text).suffix.lower()
    if ending in files:
        return
    if ending in _FILES:
        raise InvalidRequestError(f"{text} {_FILES[ending]}.")
    if ending in PICKLES and Path(text).is_file() and _is_whole(Path(text), text):
        return
    if ending in _CHECKPOINTS and not Path(text).exists():
        raise InvalidRequestError(
            f"there is no file {text} here. A checkpoint is given with the model that it belongs to: net.py:MyNet --weights "
            f"{text}."
        )
    if ending in _CHECKPOINTS:
        raise InvalidRequestError(
            f"{text} is a checkpoint: it holds weights, and not the model that they belong to. Name the model, and the file "
            f"with --weights: net.py:MyNet --weights {text}, resnet18 --weights {text}, or yolov8n --weights {text}."
        )
    for part in _parts(parse_name(text)):
        registry.get(part)


def _is_whole(path: Path, text: str) -> bool:
    """Whether a file is a whole pickled model that the user trusts; one that he does not is refused."""
    from attn_deploy.resolve.pickles import refuse_untrusted  # needs torch

    refuse_untrusted(path, text)
    return True


def registry_parts(text: str) -> tuple[str, ...]:
    """The registry names in a name: ``resnet18+se`` has two.

    Raises:
        InvalidRequestError: if it names what the registry does not hold: a file, a package's model, a trained run.
    """
    name = parse_name(text)
    if not name.of_registry:
        raise InvalidRequestError(
            f"{text!r} is not of the zoo, and `attn-deploy info` is about the zoo: export it, and `attn-deploy inspect` shows "
            "what the file holds."
        )
    return _parts(name)


def _parts(name: ModelName) -> tuple[str, ...]:
    if not name.of_registry:
        return ()
    slot = name.slot if name.slot is not None and ".py" not in name.slot else None
    return (name.base,) if slot is None else (name.base, slot)
