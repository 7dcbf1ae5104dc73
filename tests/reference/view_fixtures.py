"""Write tests/fixtures/views: pictures in many formats, with Pillow's and torchvision's results as PNG.

Needs torch, torchvision and Pillow. Results of several calls are stacked in one file, in the order of
`crates/vit-pictures/src/agreement.rs`.
"""

import io
import math
import random
from pathlib import Path

import torch
import torchvision.transforms.functional as F
from PIL import Image, ImageOps
from torchvision.transforms import InterpolationMode
from torchvision.transforms.autoaugment import _apply_op
from torchvision.transforms.functional import pil_to_tensor, to_pil_image

FOLDER = Path(__file__).parent.parent / "fixtures" / "views"
BACKGROUND = (200, 30, 90)
FILTERS = [Image.Resampling.BILINEAR, Image.Resampling.BICUBIC]
MODES = [InterpolationMode.BILINEAR, InterpolationMode.BICUBIC]


def source(width, height):
    """Rings, slopes and noise in saturated colours."""
    draw = random.Random(7)
    picture = Image.new("RGB", (width, height))
    pixels = picture.load()
    for y in range(height):
        for x in range(width):
            ring = math.sin(math.hypot(x - 0.4 * width, y - 0.6 * height) / 4)
            waves = (ring, math.cos(x / 9 + y / 5), math.sin((x - 2 * y) / 7))
            pixels[x, y] = tuple(
                max(0, min(255, round(128 + 120 * wave + draw.gauss(0, 15)))) for wave in waves
            )
    return picture


def photo(width, height):
    """Camera-like: fine detail in brightness, slowly changing colours."""
    draw = random.Random(8)
    picture = Image.new("RGB", (width, height))
    pixels = picture.load()
    for y in range(height):
        for x in range(width):
            light = 30 * math.sin(math.hypot(x - 0.4 * width, y - 0.6 * height) / 4) + draw.gauss(0, 8)
            colour = (130 + 60 * math.sin(x / 40), 120 + 50 * math.cos(y / 30), 110 + 50 * math.sin((x + y) / 50))
            pixels[x, y] = tuple(max(0, min(255, round(value + light))) for value in colour)
    return picture


def below(pictures):
    """Pictures of equal width, stacked."""
    pictures = [picture.convert("RGB") for picture in pictures]
    whole = Image.new("RGB", (pictures[0].width, sum(picture.height for picture in pictures)))
    top = 0
    for picture in pictures:
        whole.paste(picture, (0, top))
        top += picture.height
    return whole


def save(picture, name):
    picture.save(FOLDER / name, optimize=True)


def formats(picture):
    """A file in each format, with Pillow's decoding over the background."""
    small = picture.resize((31, 23))
    alpha = Image.linear_gradient("L").resize(small.size)
    rgba = small.copy()
    rgba.putalpha(alpha)
    grey_alpha = small.convert("L")
    grey_alpha.putalpha(alpha)
    palette = small.quantize(16)
    exif = Image.Exif()
    exif[0x0112] = 6
    wide = Image.new("I;16", small.size)
    # 16 bits: each byte twice, so that rounding and cutting off agree.
    wide.putdata([257 * value for value in small.convert("L").get_flattened_data()])
    second = ImageOps.invert(small)
    files = {
        "rgba.png": (rgba, {}),
        "grey-alpha.png": (grey_alpha, {}),
        "palette.png": (palette, {}),
        "palette-transparent.png": (palette, {"transparency": 3}),
        "one-bit.png": (small.convert("1"), {}),
        "sixteen-bit.png": (wide, {}),
        "turned.png": (small, {"exif": exif}),
        "lossy.webp": (small, {"quality": 90}),
        "lossless-alpha.webp": (rgba, {"lossless": True}),
        "turned.webp": (small, {"lossless": True, "exif": exif}),
        "animated.webp": (rgba, {"save_all": True, "append_images": [second], "lossless": True}),
        "animated.gif": (small, {"save_all": True, "append_images": [second]}),
        "transparent.gif": (palette, {"transparency": 3}),
        "colour.bmp": (small, {}),
        "grey.bmp": (small.convert("L"), {}),
        "palette.bmp": (palette, {}),
        "turned.jpg": (small, {"exif": exif, "quality": 95}),
        "grey.jpg": (small.convert("L"), {"quality": 95}),
        "cmyk.jpg": (small.convert("CMYK"), {"quality": 95}),
    }
    for name, (picture, options) in files.items():
        path = FOLDER / name
        picture.save(path, **options)
        read = ImageOps.exif_transpose(Image.open(path))
        if read.mode == "I;16":
            read = small.convert("L")
        read = read.convert("RGBA")
        whole = Image.new("RGBA", read.size, (*BACKGROUND, 255))
        whole.alpha_composite(read)
        save(whole.convert("RGB"), f"{name}.expected.png")


def main():
    FOLDER.mkdir(exist_ok=True)
    picture = source(97, 73)
    save(picture, "source.png")
    photo(97, 73).save(FOLDER / "photo.jpg", quality=92)
    save(Image.open(FOLDER / "photo.jpg").resize((48, 40), Image.Resampling.BILINEAR), "stretched.png")
    formats(picture)

    grey = picture.convert("L")
    save(below([grey]), "grey.png")
    # Smaller, larger, only one side, much smaller.
    for size in [(40, 30), (150, 101), (97, 20), (11, 73), (3, 2)]:
        results = [image.resize(size, filter) for image in (picture, grey) for filter in FILTERS]
        save(below(results), f"resize-{size[0]}x{size[1]}.png")

    views = []
    for image in (picture, picture.rotate(90, expand=True), Image.open(FOLDER / "photo.jpg")):
        for resize in (48, 33, 90):
            for mode in MODES:
                views.append(F.center_crop(F.resize(image, resize, mode), [32, 33]))
    save(below(views), "eval.png")

    crops = []
    for (top, left, height, width) in [(0, 0, 73, 97), (10, 5, 50, 61), (60, 90, 13, 7), (3, 1, 32, 33), (71, 0, 1, 97)]:
        for mode in MODES:
            crops.append(F.resized_crop(picture, top, left, height, width, [32, 33], mode))
    save(below(crops), "crops.png")

    small = pil_to_tensor(picture.resize((45, 37)))
    save(to_pil_image(small), "small.png")
    operations = []
    for factor in (0.0, 0.35, 1.0, 1.6):
        operations += [
            F.adjust_brightness(small, factor),
            F.adjust_contrast(small, factor),
            F.adjust_saturation(small, factor),
            F.adjust_sharpness(small, factor),
        ]
    operations += [F.posterize(small, bits) for bits in (2, 5, 8)]
    operations += [F.solarize(small, threshold) for threshold in (0.0, 127.5, 255.0)]
    dull = (small // 3 + 40).to(torch.uint8)
    operations += [F.autocontrast(dull), F.equalize(dull), F.autocontrast(small), F.equalize(small)]
    for name, magnitude in [
        ("ShearX", 0.627), ("ShearX", -0.957), ("ShearY", 0.297), ("ShearY", -0.693), ("TranslateX", 12.8),
        ("TranslateX", -32.0), ("TranslateY", 5.3), ("TranslateY", -7.5), ("Rotate", 31.5), ("Rotate", -135.0),
    ]:  # fmt: skip
        operations.append(_apply_op(small, name, magnitude, InterpolationMode.NEAREST, None))
    save(below([to_pil_image(operation) for operation in operations]), "operations.png")
    hues = [F.adjust_hue(small, hue) for hue in (-0.5, -0.2, 0.0, 0.07, 0.31)]
    save(below([to_pil_image(hue) for hue in hues]), "hues.png")

    # Means of torchvision's random crops, over 40,000 draws: share of the area, logarithm of the ratio, its square, middle.
    from torchvision.transforms import RandomResizedCrop

    torch.manual_seed(1)
    for size, scale in [((90, 120), (0.08, 1.0)), ((60, 240), (0.2, 1.0))]:
        image = torch.zeros(3, *size, dtype=torch.uint8)
        sums = torch.zeros(5, dtype=torch.float64)
        for _ in range(40_000):
            top, left, height, width = RandomResizedCrop.get_params(image, scale, (3 / 4, 4 / 3))
            ratio = math.log(width / height)
            middle = ((top + height / 2) / size[0], (left + width / 2) / size[1])
            sums += torch.tensor([height * width / (size[0] * size[1]), ratio, ratio**2, *middle])
        print(size, scale, [round(value, 4) for value in (sums / 40_000).tolist()])


if __name__ == "__main__":
    main()
