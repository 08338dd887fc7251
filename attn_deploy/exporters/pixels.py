"""``--preprocess``: what an exported graph does to the images that it is fed, and the grammar that says so."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from attn_deploy.conversion.preprocess import PRESETS
from attn_deploy.errors import InvalidRequestError

PIXEL_TYPES = ("uint8", "float32")
_LAYOUTS = ("nchw", "nhwc")
_COLORS = ("rgb", "bgr")
_RESIZES = ("resize", "letterbox")
_NUMBERS = ("mean", "std", "scale")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pixels:
    """The images that a graph takes, and what it makes of them: ``(pixel * scale - mean) / std`` for each channel.

    Attributes:
        preset: the name of the values, empty where they were given as numbers.
        dtype: uint8 or float32; both hold 0 to 255.
        layout: nchw or nhwc.
        color: of the images that come in; ``bgr``, as OpenCV reads them, is turned into the model's RGB.
        scale: of the pixels.
        mean, std: of the model's channels, or one number for all.
        resize: how any size becomes the model's: empty (not at all), ``resize`` (bilinear) or ``letterbox`` (bilinear to
            the longer side, in the middle of grey 114).
        size: height and width after it.
    """

    preset: str = ""
    dtype: str = "float32"
    layout: str = "nchw"
    color: str = "rgb"
    scale: float = 1 / 255
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    resize: str = ""
    size: tuple[int, int] | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data."""
        return asdict(self)

    @staticmethod
    def from_record(data: Mapping[str, Any]) -> Pixels:
        """What a record holds, as it was."""
        size = data.get("size")
        values = {k: tuple(data[k]) for k in ("mean", "std")}
        return Pixels(**{**data, **values, "size": None if size is None else (int(size[0]), int(size[1]))})

    def __str__(self) -> str:
        words = [self.preset or f"scale={self.scale:g},mean={_joined(self.mean)},std={_joined(self.std)}"]
        words += [self.dtype, self.layout, self.color]
        if self.size is not None:
            words.append(f"{self.resize}={self.size[0]}x{self.size[1]}")
        return ",".join(words)


def parse_preprocess(text: str) -> Pixels:
    """``imagenet,uint8,nhwc,bgr,resize=224x224`` as what it says; the words stand in any order.

    Raises:
        InvalidRequestError: if a word is unknown or contradicts another.
    """
    settings: dict[str, Any] = {}
    for word in (w.strip().lower() for w in text.split(",")):
        for key, value in _setting(word, text).items():
            if key in settings and settings[key] != value:
                raise InvalidRequestError(f"--preprocess {text!r} gives two values for {key}; give one.")
            settings[key] = value
    numbers = [n for n in _NUMBERS if n in settings]
    if "preset" not in settings and not numbers:
        raise InvalidRequestError(
            f"--preprocess {text!r} says nothing of the values: name a preset ({', '.join(PRESETS)}), or give numbers, as "
            "mean=0.5/0.5/0.5,std=0.5/0.5/0.5."
        )
    base = Pixels()
    if "preset" in settings:
        preset = PRESETS[settings["preset"]]
        base = Pixels(preset=settings["preset"], scale=preset.scale, mean=preset.mean, std=preset.std)
    pixels = replace(base, **settings)
    if numbers:
        pixels = replace(pixels, preset="")
    if min(pixels.std) <= 0 or not pixels.scale > 0:
        raise InvalidRequestError(f"--preprocess {text!r}: std and scale must be above 0.")
    return pixels


def _setting(word: str, text: str) -> dict[str, Any]:
    """One word as the fields that it sets."""
    if word in PRESETS:
        return {"preset": word}
    for key, choices in (("dtype", PIXEL_TYPES), ("layout", _LAYOUTS), ("color", _COLORS)):
        if word in choices:
            return {key: word}
    key, equals, value = word.partition("=")
    if equals and key in _RESIZES:
        match = re.fullmatch(r"([1-9]\d*)(?:x([1-9]\d*))?", value)
        if match is None:
            raise InvalidRequestError(f"--preprocess {text!r}: {word!r} cannot be read; write {key}=224x224.")
        return {"resize": key, "size": (int(match[1]), int(match[2] or match[1]))}
    if equals and key in _NUMBERS:
        try:
            numbers = tuple(float(n) for n in value.split("/"))
        except ValueError as error:
            raise InvalidRequestError(
                f"--preprocess {text!r}: {word!r} cannot be read; write {key}=0.5, or {key}=0.485/0.456/0.406."
            ) from error
        if key == "scale" and len(numbers) != 1:
            raise InvalidRequestError(f"--preprocess {text!r}: scale is one number for all channels.")
        if any(n != n or n in (float("inf"), float("-inf")) for n in numbers):
            raise InvalidRequestError(f"--preprocess {text!r}: {word!r} holds a value that is not a finite number.")
        return {key: numbers[0] if key == "scale" else numbers}
    words = (*PRESETS, *PIXEL_TYPES, *_LAYOUTS, *_COLORS, *(f"{r}=HxW" for r in _RESIZES), *(f"{n}=" for n in _NUMBERS))
    near = difflib.get_close_matches(word, words, n=1)
    hint = f"did you mean {near[0]!r}? The words" if near else "the words"
    raise InvalidRequestError(f"--preprocess {text!r}: {word!r} is unknown; {hint} are {', '.join(words)}.")


def _joined(values: tuple[float, ...]) -> str:
    return "/".join(f"{v:g}" for v in values)
