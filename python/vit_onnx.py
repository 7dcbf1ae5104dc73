"""Run an ONNX graph from `vit export --layout onnx`: pictures in, classes out.

    from vit_onnx import Classifier

    classifier = Classifier("model.onnx")
    for best in classifier.predict(["cat.jpg", "dog.jpg"]):
        print(best.label, best.probability)

The graph contains class names and preprocessing, so predictions equal `vit predict`'s.
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
from PIL import Image

__all__ = ["Classifier", "Prediction"]

Floats = NDArray[np.float32]
Fit = Literal["mnist", "crop", "pad", "stretch"]

WORKING_SIDE = 256  # large pictures are first averaged down to no less than this
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
        self, path: str | PathLike[str], fit: Fit | None = None, providers: Sequence[str] = ("CPUExecutionProvider",)
    ) -> None:
        """Load a graph. `fit` overrides how pictures get the model's size; the default is the training's."""
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
        if not isinstance(picture, Image.Image):
            with Image.open(picture) as opened:
                if self.fit == "crop" and (stored := self.transform.get("stored")):
                    opened.draft(None, (stored, stored))  # decodes a large JPEG at a reduced size, as in training
                opened.load()
                picture = opened
        planes = self._cropped(picture) if self.fit == "crop" else self._fitted(picture)
        if self.takes_bytes:
            return np.rint(255 * planes).astype(np.uint8)
        mean, std = (np.float32(self.transform[key]).reshape(-1, 1, 1) for key in ("mean", "std"))
        return (planes - mean) / std

    def _cropped(self, picture: Image.Image) -> Floats:
        """Resizes the shorter side like Pillow, bit for bit, and crops the centre."""
        picture = upright(on_white(picture), picture).convert("L" if self.channels == 1 else "RGB")
        width, height = self.size
        stored, resize = self.transform.get("stored"), self.transform.get("resize", max(self.size))
        for side in (stored if stored and min(picture.size) > stored else None, resize):
            if side:
                scaled = tuple(max(1, side * length // min(picture.size)) for length in picture.size)
                picture = picture.resize(scaled, Image.Resampling[self.transform["interpolation"].upper()])
        left, top = round((picture.width - width) / 2), round((picture.height - height) / 2)
        pixels = np.asarray(picture.crop((left, top, left + width, top + height)), np.float32) / np.float32(255)
        return pixels.reshape(height, width, self.channels).transpose(2, 0, 1)

    def _fitted(self, picture: Image.Image) -> Floats:
        """The whole picture, or its strokes, at the model's size."""
        planes = shrunk(picture, self.channels, max(WORKING_SIDE, *self.size))
        planes = [np.asarray(upright(Image.fromarray(plane), picture)) for plane in planes]
        size = upright(Image.new("1", picture.size), picture).size
        if self.channels == 1 and self.transform["fit"] == "mnist" and is_dark_on_light(planes[0]):
            planes = [1 - plane for plane in planes]
        if size != self.size:
            strokes = strokes_of(planes[0]) if self.fit == "mnist" else None
            if strokes is not None:
                planes = [placed_as_mnist(strokes, self.size)]
            else:
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
    whole = np.full(size[::-1], quantile(plane[frame(plane.shape)], 0.5), np.float32)
    left, top = (size[0] - inner.shape[1]) // 2, (size[1] - inner.shape[0]) // 2
    whole[top : top + inner.shape[0], left : left + inner.shape[1]] = inner
    return whole


def half_up(number: float) -> int:
    return int(np.floor(number + 0.5))


def frame(shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """The pixels along the border."""
    thickness = max(int(0.05 * min(shape)), 1)
    mask = np.ones(shape, bool)
    mask[thickness:-thickness, thickness:-thickness] = False
    return mask


def quantile(values: Floats, share: float) -> float:
    ordered = np.sort(values, axis=None)
    return float(ordered[half_up(share * (ordered.size - 1))])


def is_dark_on_light(plane: Floats) -> bool:
    """Whether the darkest pixels differ more from the border than the lightest."""
    border = plane[frame(plane.shape)]
    below = quantile(border, 0.1) - quantile(plane, 0.01)
    above = quantile(plane, 0.99) - quantile(border, 0.9)
    return below > above


def strokes_of(plane: Floats) -> Floats | None:
    """Light strokes without background and specks, from 0 to 1; None if nothing stands out."""
    mask = frame(plane.shape)
    down, across = (np.arange(side, dtype=np.float32) - 0.5 * (side - 1) for side in plane.shape)
    down, across = np.meshgrid(down, across, indexing="ij")
    ink = plane.astype(np.float32)
    for offset in (across, down):  # the border's slope; it is symmetric, so the axes are independent
        ink = ink - offset * ((offset * plane)[mask].sum() / max((offset * offset)[mask].sum(), 1e-30))
    reach = int(np.ceil(0.5 * (1 / 3) * max(plane.shape)))
    ink = (ink - extreme(extreme(ink, reach, np.minimum), reach, np.maximum)).astype(np.float32)
    full = quantile(ink, 0.999)
    if full < 0.06:
        return None
    cut = min(max(2 * quantile(ink[mask], 0.75), 0.1 * full), 0.4 * full)
    return without_specks(np.clip((ink - cut) / (full - cut), 0, 1).astype(np.float32))


def extreme(plane: Floats, reach: int, of: np.ufunc) -> Floats:
    """The extreme in the square around each pixel, from windows of doubling size."""
    window = 2 * reach + 1
    for _ in range(2):
        length = plane.shape[1]
        rows = np.pad(plane, ((0, 0), (reach, reach)), constant_values=np.inf if of is np.minimum else -np.inf)
        span = 1
        while 2 * span <= window:
            rows[:, :-span] = of(rows[:, :-span], rows[:, span:])
            span *= 2
        plane = of(rows[:, :length], rows[:, window - span : window - span + length]).T
    return plane


def without_specks(ink: Floats) -> Floats:
    """Removes connected parts with less than a twentieth of the largest part's ink."""
    left, parts = {tuple(place) for place in np.argwhere(ink > 0).tolist()}, []
    while left:
        part = open_ = [left.pop()]
        while open_:
            around = {(y + dy, x + dx) for y, x in open_ for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            left -= around
            open_ = list(around)
            part = part + open_
        parts.append(tuple(np.array(part).T))
    amounts = [ink[part].sum() for part in parts]
    for part, amount in zip(parts, amounts):
        if amount < 0.05 * max(amounts):
            ink[part] = 0
    return ink


def placed_as_mnist(ink: Floats, size: tuple[int, int]) -> Floats:
    """Scales the longer side to 20 of 28 pixels and centres the mass."""
    bounds = [(places.min(), places.max() + 1) for places in np.nonzero(ink)]
    scale = max(end - begin for begin, end in bounds) / (20 / 28 * min(size))
    lengths = [max(1, half_up(scale * side)) for side in size[::-1]]
    window = np.zeros(lengths, np.float32)
    places, targets = [], []
    for axis, (length, (begin, end)) in enumerate(zip(lengths, bounds)):
        mass = ink.sum(axis=1 - axis, dtype=np.float64)
        centre = (mass * (np.arange(mass.size) + 0.5)).sum() / mass.sum()
        wanted = centre - 0.5 * length
        first = min(max(int(np.copysign(half_up(abs(wanted)), wanted)), end - length), begin)
        inside = slice(max(first, 0), min(first + length, mass.size))
        places.append(inside)
        targets.append(slice(inside.start - first, inside.stop - first))
    window[tuple(targets)] = ink[tuple(places)]
    placed = stretched(window, size)
    return placed / placed.max()
