"""Run an ONNX graph from `vit export --layout onnx`: pictures in, classes out.

    from vit_onnx import Classifier

    classifier = Classifier("model.onnx")
    for best in classifier.predict(["cat.jpg", "dog.jpg"]):
        print(best.label, best.probability)

The graph contains class names and preprocessing, so predictions equal those of `vit predict --invert never`, or `always` with
`invert=True`. Only `vit predict` finds strokes on paper: a model of digits takes pictures of its own size here, or `fit="pad"`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Literal

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from PIL import Image, ImageOps

__all__ = ["Classifier", "Prediction"]

Floats = NDArray[np.float32]
Fit = Literal["mnist", "crop", "pad", "stretch"]

WORKING_SIDE = 240  # large pictures are first averaged down to no less than this
LUMINANCE = (0.2126, 0.7152, 0.0722)  # ITU-R BT.709
UPRIGHT = dict(zip(range(2, 9), (0, 3, 1, 5, 4, 6, 2)))  # EXIF orientation: Image.Transpose


@dataclass(frozen=True)
class Prediction:
    """The most probable class of a picture."""

    index: int
    label: str
    probability: float


class Classifier:
    """A model from `vit export --layout onnx`, with `--input float` or `bytes`."""

    def __init__(
        self,
        path: str | PathLike[str],
        fit: Fit | None = None,
        invert: bool = False,
        providers: Sequence[str] = ("CPUExecutionProvider",),
    ) -> None:
        """Load a graph. `fit` overrides how pictures get the model's size; the default is the training's.

        `invert` exchanges dark and light, for ink on paper and a model of light strokes.
        """
        self.session = onnxruntime.InferenceSession(str(path), providers=list(providers))
        metadata = self.session.get_modelmeta().custom_metadata_map
        if "vit_config" not in metadata:
            raise ValueError(f"{path} has no configuration, expected a graph from `vit export --layout onnx`")
        self.config = json.loads(metadata["vit_config"])
        image = self.config["image"]
        self.channels, self.size = image["channels"], (image["width"], image["height"])
        self.labels = self.config.get("class_names") or [str(index) for index in range(self.config["classes"])]
        transform = self.config.get("transform") or {"fit": "mnist" if self.channels == 1 else "stretch"}
        self.transform = {"interpolation": "bicubic", "mean": [0.5], "std": [0.5], **transform}
        self.fit: Fit = fit or self.transform["fit"]
        self.invert = invert
        self.takes_bytes = self.session.get_inputs()[0].type == "tensor(uint8)"

    def predict(self, pictures: Iterable[str | PathLike[str] | Image.Image]) -> list[Prediction]:
        """The most probable class of each picture."""
        rows = self.probabilities(np.stack([self.prepare(picture) for picture in pictures]))
        return [Prediction(int(best), self.labels[best], float(row[best])) for row in rows for best in [row.argmax()]]

    def probabilities(self, images: NDArray) -> Floats:
        """Probabilities (batch, classes) of prepared images (batch, channels, height, width)."""
        (output,) = self.session.run(None, {"images": images})
        if self.config["output"] == "softmax":
            return output
        powers = np.exp(output - output.max(axis=1, keepdims=True))
        return powers / powers.sum(axis=1, keepdims=True)

    def prepare(self, picture: str | PathLike[str] | Image.Image) -> NDArray:
        """The graph's input (channels, height, width): normalised float32, or uint8 with `--input bytes`."""
        # Models of pictures were trained on bytes, resized by Pillow's rules.
        in_bytes = self.fit == "crop" or (self.fit == "stretch" and self.transform["fit"] != "mnist")
        if not isinstance(picture, Image.Image):
            with Image.open(picture) as opened:
                if in_bytes and (stored := self.transform.get("stored")):
                    opened.draft(None, (stored, stored))  # decodes a large JPEG at a reduced size, as in training
                opened.load()
                picture = opened
        planes = self._in_bytes(picture) if in_bytes else self._fitted(picture)
        if self.takes_bytes:
            return np.rint(255 * planes).astype(np.uint8)
        mean, std = (np.float32(self.transform[key]).reshape(-1, 1, 1) for key in ("mean", "std"))
        return (planes - mean) / std

    def _in_bytes(self, picture: Image.Image) -> Floats:
        """Stretches like Pillow, bit for bit, or resizes the shorter side and crops the centre."""
        picture = upright(on_white(picture), picture).convert("L" if self.channels == 1 else "RGB")
        width, height = self.size
        interpolation = Image.Resampling[self.transform["interpolation"].upper()]
        stored, resize = self.transform.get("stored"), self.transform.get("resize", max(self.size))
        if self.fit == "stretch":
            picture = picture.resize(self.size, interpolation)
        else:
            for side in (stored if stored and min(picture.size) > stored else None, resize):
                if side:
                    scaled = tuple(max(1, side * length // min(picture.size)) for length in picture.size)
                    picture = picture.resize(scaled, interpolation)
        left, top = round((picture.width - width) / 2), round((picture.height - height) / 2)
        picture = picture.crop((left, top, left + width, top + height))
        pixels = np.asarray(ImageOps.invert(picture) if self.invert else picture, np.float32) / np.float32(255)
        return pixels.reshape(height, width, self.channels).transpose(2, 0, 1)

    def _fitted(self, picture: Image.Image) -> Floats:
        """The whole picture at the model's size."""
        planes = shrunk(picture, self.channels, max(WORKING_SIDE, *self.size))
        planes = [np.asarray(upright(Image.fromarray(plane), picture)) for plane in planes]
        if self.invert:
            planes = [1 - plane for plane in planes]
        size = upright(Image.new("1", picture.size), picture).size
        if size != self.size:
            if self.fit == "mnist":
                expected, got = ("x".join(map(str, side)) for side in (self.size, size))
                raise ValueError(f"expected a picture of {expected} px, got {got}: pass fit='pad', or use `vit predict`")
            fitted = stretched if self.fit == "stretch" else padded
            planes = [fitted(plane, self.size) for plane in planes]
        return np.stack(planes)


def upright(picture: Image.Image, original: Image.Image) -> Image.Image:
    """The picture with its EXIF orientation applied."""
    turn = UPRIGHT.get(original.getexif().get(0x0112, 1))
    return picture if turn is None else picture.transpose(Image.Transpose(turn))


def has_alpha(picture: Image.Image) -> bool:
    return picture.mode in ("LA", "PA", "RGBA") or "transparency" in picture.info


def on_white(picture: Image.Image) -> Image.Image:
    """Removes transparency and converts to 8 bits."""
    if picture.mode.startswith("I;16"):
        return Image.fromarray(np.rint(np.asarray(picture) / 257).astype(np.uint8))
    if not has_alpha(picture):
        return picture if picture.mode in ("L", "RGB") else picture.convert("RGB")
    ground = Image.new("RGBA", picture.size, "white")
    return Image.alpha_composite(ground, picture.convert("RGBA"))


def shrunk(picture: Image.Image, channels: int, least: int) -> list[Floats]:
    """Planes in [0, 1], averaged over squares, with a contrasting background behind transparency."""
    if picture.mode.startswith("I;16"):
        pixels = np.asarray(picture, np.float64)[..., None] / 65535
    else:
        alpha = has_alpha(picture)
        mode = "RGBA" if alpha else "L" if picture.mode in ("1", "L") else "RGB"
        pixels = np.asarray(picture.convert(mode), np.float64).reshape(picture.height, picture.width, -1) / 255
    if pixels.shape[2] == 4:
        pixels[..., :3] *= pixels[..., 3:]
    factor = max(1, max(picture.size) // least)
    for axis, length in enumerate(pixels.shape[:2]):
        starts = np.arange(0, length, factor)
        counts = np.diff(np.append(starts, length))
        pixels = np.add.reduceat(pixels, starts, axis) / counts.reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
    colours = pixels[..., :3]
    grey = colours @ np.array(LUMINANCE) if colours.shape[2] == 3 else colours[..., 0]
    planes = [grey] if channels == 1 else list(np.broadcast_to(colours, (*grey.shape, 3)).transpose(2, 0, 1))
    if pixels.shape[2] == 4:
        opacity = pixels[..., 3].mean()
        mean = grey.mean() / opacity if opacity else 1.0
        ground = mean if opacity > 0.5 else 0.0 if mean > 0.5 else 1.0
        planes = [plane + ground * (1 - pixels[..., 3]) for plane in planes]
    return [np.ascontiguousarray(plane, np.float32) for plane in planes]


def stretched(plane: Floats, size: tuple[int, int]) -> Floats:
    """Stretches each side independently."""
    return np.asarray(Image.fromarray(plane).resize(size, Image.Resampling.BILINEAR))


def padded(plane: Floats, size: tuple[int, int]) -> Floats:
    """Keeps proportions, centred, padded with the colour of the border."""
    height, width = plane.shape
    scale = min(size[0] / width, size[1] / height)
    inner = stretched(plane, tuple(max(1, half_up(scale * side)) for side in (width, height)))
    inside = np.zeros(plane.shape, bool)
    inside[1:-1, 1:-1] = True
    border = np.sort(plane[~inside])
    whole = np.full(size[::-1], border[border.size // 2], np.float32)
    left, top = (size[0] - inner.shape[1]) // 2, (size[1] - inner.shape[0]) // 2
    whole[top : top + inner.shape[0], left : left + inner.shape[1]] = inner
    return whole


def half_up(number: float) -> int:
    return int(np.floor(number + 0.5))
