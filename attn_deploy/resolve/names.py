"""The one grammar that names whatever can be exported.

ghostmodule                     a zoo module
ghostmodule:ratio=3             with constructor arguments, separated by commas
resnet18                        a backbone;  resnet18:stem=imagenet,num_classes=1000
resnet18+se:reduction=8         a module in every slot of a backbone
resnet18+cbam@layer3            in one stage
path/to/net.py:MyNet            the user's own class or factory
timm:resnet50:num_classes=10    a model of an installed package, made by the package's own factory; likewise torchvision:,
                                transformers:ViTModel (its default configuration, or config=DIR), smp:Unet, ultralytics:yolo11n
timm:resnet50+cbam@layer3       in these and in files, a module behind the one at a path;  net.py:Net+eca:kernel_size=3@stage4.*
best.pt                         a whole pickled model, such as ultralytics' trainings leave; only where it is trusted
runs/resnet18-se-digits-s0      a trained model: the folder of a run, or its model.safetensors
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from attn_deploy.errors import InvalidRequestError
from attn_deploy.resolve.package_names import MODULES

PACKAGES = tuple(MODULES)
PICKLES = (".pt", ".pth")


@dataclass(frozen=True, slots=True)
class ModelName:
    """A parsed name.

    ``file`` is set for a user's own model, ``package`` for one of an installed package, ``slot`` for a backbone with a
    module in it, ``checkpoint`` for a trained one, ``pickled`` for a file that holds a whole model.
    """

    text: str
    base: str
    arguments: dict[str, Any] = field(default_factory=dict)
    file: str | None = None
    slot: str | None = None
    slot_arguments: dict[str, Any] = field(default_factory=dict)
    stage: str | None = None
    package: str | None = None
    checkpoint: str | None = None
    pickled: str | None = None

    @property
    def of_registry(self) -> bool:
        """Whether the base name is one of the zoo's."""
        return not (self.file or self.package or self.checkpoint or self.pickled)

    @property
    def short(self) -> str:
        """The name without the folder of its file, such as ``net.py:MyNet``: the same model wherever it lies."""
        if self.file is not None:
            return Path(self.file).name + self.text[len(self.file) :]
        if self.pickled is not None:
            return Path(self.pickled).name + self.text[len(self.pickled) :]
        if self.checkpoint is not None:
            path = Path(self.checkpoint)
            return path.parent.name or path.name if path.name == "model.safetensors" else path.name
        return self.text

    @property
    def stem(self) -> str:
        """The name as a file name, such as ``resnet18-cbam-layer3``."""
        text = self.base if self.file or self.checkpoint or self.pickled else self.text
        if (self.file or self.pickled) and self.slot:
            text = f"{self.base}-{self.slot}-{self.stage}"
        return re.sub(r"[^A-Za-z0-9_]+", "-", text).strip("-").lower()


def parse_name(text: str) -> ModelName:
    """Read a name.

    Raises:
        InvalidRequestError: if the text does not follow the grammar.
    """
    text = text.strip()
    if text.endswith(".safetensors") or any((Path(text) / n).is_file() for n in ("model.safetensors", "record.json")):
        path = Path(text)
        base = path.parent.name if path.name == "model.safetensors" else path.stem if path.suffix else path.name
        return ModelName(text, base or "model", checkpoint=text)
    behind = re.fullmatch(r"(?P<network>.+)\+(?P<module>[A-Za-z][\w-]*(?::[^@]+)?)@(?P<path>[\w.*]+)", text)
    if behind and _is_network(behind["network"]):
        network = parse_name(behind["network"])
        slot, slot_arguments = _name_and_arguments(behind["module"], text)
        return replace(network, text=text, slot=slot, slot_arguments=slot_arguments, stage=behind["path"])
    nowhere = re.fullmatch(r"(?P<network>.+)\+[A-Za-z][\w-]*(?::.+)?", text)
    if nowhere and _is_network(nowhere["network"]):
        raise _malformed(text, "it does not say behind which module; write the module's path, as in +cbam@layer3")
    file = re.fullmatch(r"(?P<file>.+\.py):(?P<base>[A-Za-z_]\w*)(?::(?P<arguments>.+))?", text)
    if file:
        return ModelName(text, file["base"], _arguments(file["arguments"], text), file=file["file"])
    if text.endswith(".py"):
        raise InvalidRequestError(f"{text!r} names a file but no class: write {text}:ClassName.")
    if text.endswith(PICKLES):
        return ModelName(text, Path(text).stem or "model", pickled=text)
    packaged = re.fullmatch(rf"(?P<package>{'|'.join(PACKAGES)}):(?P<base>\w[\w./-]*)(?::(?P<arguments>.+))?", text)
    if packaged:
        arguments = _arguments(packaged["arguments"], text)
        return ModelName(text, packaged["base"], arguments, package=packaged["package"])
    head, plus, tail = text.partition("+")
    base, arguments = _name_and_arguments(head, text)
    if not plus:
        return ModelName(text, base, arguments)
    module, at, stage = tail.partition("@")
    if not at:
        slot, slot_arguments = _name_and_arguments(module, text)
        return ModelName(text, base, arguments, slot=slot, slot_arguments=slot_arguments)
    if ":" in stage:  # resnet18+se@layer3:reduction=8 reads as well as resnet18+se:reduction=8@layer3
        stage, _, late = stage.partition(":")
        module = f"{module}:{late}"
    if not re.fullmatch(r"\w+", stage):
        raise _malformed(text, f"{stage!r} is not a stage name, such as 'layer3'")
    slot, slot_arguments = _name_and_arguments(module, text)
    return ModelName(text, base, arguments, slot=slot, slot_arguments=slot_arguments, stage=stage)


def _is_network(text: str) -> bool:
    """Whether a name is of a user's file, of a package or of a pickled model, whose modules have paths."""
    packages = "|".join(PACKAGES)
    return bool(re.fullmatch(rf".+\.py:[A-Za-z_]\w*(:.+)?|({packages}):\w[\w./-]*(:.+)?|.+\.(pt|pth)", text))


def module_and_arguments(text: str) -> tuple[str, dict[str, Any]]:
    """``coord_attention:reduction=16`` as the name of a module and its constructor arguments.

    Raises:
        InvalidRequestError: if the text does not follow the grammar.
    """
    return _name_and_arguments(text.strip(), text)


def _name_and_arguments(part: str, text: str) -> tuple[str, dict[str, Any]]:
    name, colon, arguments = part.partition(":")
    if not re.fullmatch(r"[A-Za-z0-9][\w-]*", name.strip()):
        raise _malformed(text, f"{name!r} is not a model name")
    return name.strip(), _arguments(arguments if colon else None, text)


def _arguments(text: str | None, whole: str) -> dict[str, Any]:
    if text is None:
        return {}
    arguments: dict[str, Any] = {}
    for item in _split_at_commas(text):
        key, equals, value = item.partition("=")
        if not equals or not key.strip().isidentifier():
            package = re.fullmatch(r"([A-Za-z]\w*):[\w./-]+", whole)
            known = f"{', '.join(PACKAGES[:-1])} and {PACKAGES[-1]}"
            hint = (
                f"; if {package[1]!r} is a package, its models are not known, those of {known} are" if package else ""
            )
            raise _malformed(whole, f"{item!r} is not of the form argument=value{hint}")
        if key.strip() in arguments:
            raise _malformed(whole, f"{key.strip()!r} is given twice")
        arguments[key.strip()] = _value(value.strip())
    return arguments


def _split_at_commas(text: str) -> list[str]:
    """Split at commas outside brackets, so that ``bins=(1,2,3)`` stays whole."""
    parts, depth = [""], 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return parts


def _value(text: str) -> Any:
    if text.lower() in ("true", "false", "none"):
        return {"true": True, "false": False, "none": None}[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _malformed(text: str, why: str) -> InvalidRequestError:
    return InvalidRequestError(
        f"{text!r} cannot be read as a model name: {why}. "
        "Examples: ghostmodule, ghostmodule:ratio=3, resnet18+se:reduction=8, resnet18+cbam@layer3, net.py:MyNet, timm:resnet50."
    )
