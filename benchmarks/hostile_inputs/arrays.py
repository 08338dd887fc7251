"""Calibration data, samples, labels and images that are none, or that would fill the disk and the memory."""

from __future__ import annotations

import io
import random
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np

from hostile_inputs.case import WORDS, Case
from hostile_inputs.graphs import put_sound

READERS: tuple[tuple[str, ...], ...] = (
    ("quantize", "sound.onnx", "--method", "minmax", "--calibration", "data.npz", "-o", "out.onnx"),
    ("convert", "sound.onnx", "--precision", "fp16", "--calibration", "data.npz", "-o", "out.onnx"),
    ("convert", "sound.onnx", "--opset", "20", "--sample", "data.npz", "-o", "out.onnx"),
    ("simplify", "sound.onnx", "--sample", "data.npz", "-o", "out.onnx"),
    ("run", "sound.onnx", "--data", "data.npz", "-o", "out.npz"),
    ("verify", "sound.onnx", "sound.onnx", "--data", "data.npz"),
    ("diagnose", "sound.onnx", "--no-build", "--precision", "fp16", "--calibration", "data.npz"),
    ("export", "se", "--sample", "data.npz", "-o", "out.onnx"),
)


def _good() -> np.ndarray:
    return np.random.default_rng(0).random((8, 3, 16, 16), np.float32)


def calibration(chance: random.Random, folder: Path) -> Case:
    """Arrays that are no images, and archives that are no arrays."""
    put_sound(folder)
    good, path = _good(), folder / "data.npz"
    arrays = (
        good.astype(complex), good > 0.5, good.astype(str), good.astype("datetime64[s]"), good[:, :2], good[0, 0],
        np.full_like(good, np.nan), good.astype(np.float64) * 1e300, good[:0], good[:, :, :0], np.float32(3), good.astype("S3"),
        np.zeros((4, 3, 16, 16), [("a", "f4"), ("b", "i4")]), good.astype("timedelta64[s]"), np.full_like(good, -np.inf),
        good[..., None], np.zeros((8, 3, 16, 16), "V4"),
    )  # fmt: skip
    kind = chance.randrange(4)
    if kind == 0:
        np.savez(path, x=chance.choice(arrays))
    elif kind == 1:
        path.write_bytes(chance.choice((b"", b"PK\x05\x06" + bytes(18), chance.randbytes(300), b"PK\x03\x04")))
    elif kind == 2:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(chance.choice(("../x.npy", "/tmp/x.npy", "x.npy", "x", "a/b/x.npy")), _member(chance))
    else:
        content = bytearray(_bytes(x=good))
        if chance.random() < 0.5:
            content = content[: chance.randrange(len(content))]
        else:
            start = chance.randrange(100)
            content[start : start + 20] = chance.randbytes(20)
        path.write_bytes(content)
        # What is left may still be an archive with the same array in it.
        return Case(_reader(chance))
    return Case(_reader(chance), must_fail=True)


def _reader(chance: random.Random) -> tuple[str, ...]:
    return chance.choice(READERS)


def _member(chance: random.Random) -> bytes:
    """An array whose header says more than is there, or the zip bomb's member."""
    shapes = ("(1000000, 3, 1000, 1000)", "(-1, 3, 16, 16)", "(8,3,16,16),", "()", "(2**62, 4)", "None", "(8, 3, 16)")
    kinds = ("'<f4'", "'|O'", "'<U9999999'", "[('a', '|O')]", "'<f4'", "None", "'<c16'")
    header = f"{{'descr': {chance.choice(kinds)}, 'fortran_order': False, 'shape': {chance.choice(shapes)}, }}"
    head = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header) + 1) + header.encode() + b"\n"
    return head + bytes(chance.choice((100, 30_000_000)))


def _bytes(**arrays: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def names(chance: random.Random, folder: Path) -> Case:
    """Right arrays under wrong names, more of them, or of other lengths."""
    put_sound(folder)
    good = _good()
    entries: dict[str, np.ndarray] = {"x": good}
    kind = chance.randrange(4)
    if kind == 0:
        names = [w for w in WORDS if w != "x" and "\x00" not in w and len(w) < 200]
        entries = dict.fromkeys(chance.sample(names, chance.choice((1, 2))), good)
    elif kind == 1:
        entries["other"] = good[:3]
    elif kind == 2:
        entries["y"] = np.full(8, np.nan)
    else:
        entries["labels"] = chance.choice(
            (np.full(8, np.nan), np.zeros((8, 8)), np.arange(8).astype(str), np.arange(3))
        )
    (folder / "data.npz").write_bytes(_bytes(**entries))
    # A single array is that of the only input, whatever it is called: np.savez calls it arr_0.
    return Case(_reader(chance), must_fail=kind == 0 and len(entries) > 1)


def _png(width: int, height: int, body: bytes) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def images(chance: random.Random, folder: Path) -> Case:
    """Folders of files that are called images, and data sets that are cut short."""
    put_sound(folder)
    kind = chance.randrange(4)
    if kind == 0:
        batch = folder / "cifar-10-batches-bin"
        batch.mkdir()
        (batch / "test_batch.bin").write_bytes(chance.randbytes(chance.choice((0, 3073, 4000, 307_300))))
        return Case(("evaluate", "sound.onnx", "--dataset", "cifar10", "--data-dir", "."), must_fail=True)
    bomb = _png(30_000, 30_000, zlib.compress(bytes(1000)))
    huge = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + struct.pack(">II", 10**6, 10**6) + chance.randbytes(40)
    choices = (
        b"",
        huge,
        bomb,
        chance.randbytes(300),
        b"GIF89a" + bytes(8),
        b"BM" + bytes(60),
        b"<svg/>",
        b"\xff\xd8\xff" * 50,
    )
    for name in ("a", "b", "c", "d"):
        place = folder / "images" / name
        place.mkdir(parents=True)
        if kind == 3:
            (place / "1.png").symlink_to(chance.choice(("/dev/zero", "/dev/random", "1.png", "/etc/passwd")))
        else:
            (place / chance.choice(("1.png", "1.jpg", "1.webp", "1.tif"))).write_bytes(chance.choice(choices))
    command = chance.choice(
        (
            ("evaluate", "sound.onnx", "--dataset", "folder", "--data-dir", "images"),
            ("quantize", "sound.onnx", "--calibration", "images", "--size", "32", "-o", "out.onnx"),
            ("run", "sound.onnx", "--data", "images/a", "--size", "32", "-o", "out.npz"),
        )
    )
    return Case(command, must_fail=True)
