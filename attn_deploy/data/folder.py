"""A user's own images: a folder of class folders, or two of them called train and test (or val)."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from attn_deploy.data.imageset import Images, ImageSet, Split, stable_order
from attn_deploy.errors import DatasetError, MissingDependencyError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm", ".pgm")
SIDE = 32
TEST_SHARE = 0.2  # of a folder that is not split by its owner
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, which pretrained weights expect


def load_folder(
    split: Split,
    folder: Path,
    *,
    side: int | tuple[int, int] = SIDE,
    limit: int | None = None,
    resize: str = "crop",
) -> ImageSet:
    """Images brought to ``side x side`` (shorter side resized, centre cut out); classes in the order of their names.

    Args:
        split: train or test.
        folder: of class folders.
        side: in pixels; or height and width.
        limit: read so many only, drawn from all classes.
        resize: see `load_any_images`.

    Raises:
        DatasetError: if there are no class folders, a class has no image, or an image cannot be read.
        MissingDependencyError: if Pillow is not installed.
    """
    if not folder.is_dir():
        raise DatasetError(f"folder: {folder} is not a folder; expected one with a folder for each class.")
    splits = {name: folder / name for name in ("train", "test", "val") if (folder / name).is_dir()}
    held_out = splits.get("test") or splits.get("val")
    if "train" in splits and held_out is not None:
        classes = _classes(splits["train"])
        others = _classes(held_out)
        if classes != others:
            odd = sorted(set(classes) ^ set(others))
            raise DatasetError(f"folder: {splits['train']} and {held_out} differ in the classes {', '.join(odd)}.")
        root = splits["train"] if split == "train" else held_out
        files = [(f, i) for i, c in enumerate(classes) for f in _images_in(root / c)]
    else:
        classes = _classes(folder)
        files = [(f, i) for i, c in enumerate(classes) for f in _images_in(folder / c) if _split_of(f, folder) == split]
    if not files:
        raise DatasetError(f"folder: the {split} split of {folder} has no image; add images, or train/ and test/.")
    return _image_set(split, folder, classes, files, side, limit, resize)


def load_any_images(
    folder: Path, *, side: int | tuple[int, int] = SIDE, limit: int | None = None, resize: str = "crop"
) -> ImageSet:
    """Images of a folder for calibration: with their classes where it has class folders, without where it has not.

    Args:
        folder: the folder.
        side: in pixels; or height and width.
        limit: read so many only, drawn from all.
        resize: crop (shorter side resized, centre cut out), letterbox (longer side resized, the rest grey) or stretch.

    Raises:
        DatasetError: if there is no image, or one cannot be read.
        MissingDependencyError: if Pillow is not installed.
    """
    if len([p for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")]) > 1:
        return load_folder("train", folder, side=side, limit=limit, resize=resize)
    return _image_set("train", folder, ("unknown",), [(f, 0) for f in _images_in(folder)], side, limit, resize)


def images_of(path: Path, height: int, width: int, *, resize: str = "crop") -> Images:
    """An image, or all images of a folder in the order of their paths, (N, 3, height, width), RGB.

    Raises:
        DatasetError: if there is no image, or one cannot be read.
        MissingDependencyError: if Pillow is not installed.
    """
    return _read([path] if path.is_file() else _images_in(path), height, width, resize)


def _image_set(
    split: Split,
    folder: Path,
    classes: tuple[str, ...],
    files: list[tuple[Path, int]],
    side: int | tuple[int, int],
    limit: int | None,
    resize: str,
) -> ImageSet:
    height, width = (side, side) if isinstance(side, int) else side
    if limit is not None and limit < len(files):
        files = [files[i] for i in sorted(stable_order(len(files), 0)[:limit])]
    return ImageSet(
        name="folder",
        split=split,
        source=f"images of the folder {folder.resolve().name}, brought to {height}x{width}",
        classes=classes,
        mean=MEAN,
        std=STD,
        images=_read([f for f, _ in files], height, width, resize),
        labels=np.array([i for _, i in files], np.int64),
    )


def _classes(folder: Path) -> tuple[str, ...]:
    names = tuple(sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")))
    if len(names) < 2:
        raise DatasetError(
            f"folder: {folder} has {len(names)} folder{'' if len(names) == 1 else 's'} in it; expected one for each "
            "class, at least two, such as cats/ and dogs/."
        )
    return names


def require_images(folder: Path) -> None:
    """Refuse a folder without images, looking no further than the first.

    Raises:
        DatasetError: if there is none.
    """
    if next(_image_files(folder), None) is None:
        raise DatasetError(f"folder: {folder} holds no image; files that count end in {', '.join(SUFFIXES)}.")


def _image_files(folder: Path) -> Iterator[Path]:
    return (p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())


def _images_in(folder: Path) -> list[Path]:
    require_images(folder)
    return sorted(_image_files(folder))


def _split_of(file: Path, folder: Path) -> Split:
    """By a hash of its path: a new image does not move the others."""
    digest = hashlib.sha256(os.fsencode(file.relative_to(folder).as_posix())).digest()
    return "test" if int.from_bytes(digest[:4], "big") < TEST_SHARE * 2**32 else "train"


_GREY = (114, 114, 114)  # of the borders of a letterbox, as detectors are trained with


def _read(files: Sequence[Path], height: int, width: int, resize: str) -> Images:
    pillow = _import_pillow()
    pixels = np.empty((len(files), 3, height, width), np.uint8)
    for index, file in enumerate(files):
        try:
            with pillow.open(file) as image:
                colour = image.convert("RGB")
                pixels[index] = np.asarray(_fitted(pillow, colour, height, width, resize)).transpose(2, 0, 1)
        except Exception as error:  # Pillow's decoders raise classes of many libraries
            raise DatasetError(f"folder: {file} cannot be read as an image: {str(error).strip()[:200]}.") from error
    return pixels


def _fitted(pillow: Any, colour: Any, height: int, width: int, resize: str) -> Any:
    """An image of exactly this size."""
    if resize == "stretch":
        return colour.resize((width, height), pillow.Resampling.BILINEAR)
    factors = (width / colour.size[0], height / colour.size[1])
    scale = min(factors) if resize == "letterbox" else max(factors)
    wide, high = max(1, round(colour.size[0] * scale)), max(1, round(colour.size[1] * scale))
    if resize == "letterbox":
        framed = pillow.new("RGB", (width, height), _GREY)
        framed.paste(
            colour.resize((min(wide, width), min(high, height)), pillow.Resampling.BILINEAR),
            ((width - min(wide, width)) // 2, (height - min(high, height)) // 2),
        )
        return framed
    wide, high = max(wide, width), max(high, height)
    left, top = (wide - width) // 2, (high - height) // 2
    return colour.resize((wide, high), pillow.Resampling.BILINEAR).crop((left, top, left + width, top + height))


def _import_pillow() -> Any:
    try:
        from PIL import Image
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            "Pillow is not installed; it is needed to read images: pip install 'attn-deploy[data]'."
        ) from error
    return Image
