"""MNIST's IDX files (gzipped or not) as tensors, normalised like the notebook's."""

import gzip
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

FILES = {"train": "train", "test": "t10k"}


def read_idx(path: Path) -> np.ndarray:
    """The unsigned bytes of an IDX file, in the shape that its header gives."""
    zipped = path.with_name(path.name + ".gz")
    data = gzip.decompress(zipped.read_bytes()) if zipped.exists() else path.read_bytes()
    if data[:3] != b"\0\0\x08":
        raise ValueError(f"{path}: expected an IDX file of unsigned bytes, got {data[:4]!r}")
    axes = data[3]
    shape = np.frombuffer(data, dtype=">u4", count=axes, offset=4)
    return np.frombuffer(data, dtype=np.uint8, offset=4 + 4 * axes).reshape(shape)


def load_bytes(folder: Path, split: str, count: int | None = None) -> tuple[Tensor, Tensor]:
    """The first `count` images (count, 1, 28, 28) as bytes, and labels (count), in the files' order."""
    images = read_idx(folder / f"{FILES[split]}-images-idx3-ubyte")[:count]
    labels = read_idx(folder / f"{FILES[split]}-labels-idx1-ubyte")[:count]
    return torch.from_numpy(images.copy()).unsqueeze(1), torch.from_numpy(labels.astype(np.int64))


def scale(pixels: Tensor) -> Tensor:
    """Normalised pixels, in [-1, 1]."""
    return (pixels.float() / 255 - 0.5) / 0.5


def load(folder: Path, split: str, count: int | None = None) -> tuple[Tensor, Tensor]:
    """The first `count` images (count, 1, 28, 28) in [-1, 1], and labels (count), in the files' order."""
    pixels, labels = load_bytes(folder, split, count)
    return scale(pixels), labels
