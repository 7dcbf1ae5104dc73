"""Write tests/fixtures/jpeg: a picture in every form of JPEG, each with Pillow's (libjpeg's) decoding as PNG."""

import math
from pathlib import Path

from PIL import Image

FOLDER = Path(__file__).parent.parent / "fixtures" / "jpeg"
# Not a multiple of the block's side, nor even.
WIDTH, HEIGHT = 93, 61
FORMS = {
    "444": {"subsampling": "4:4:4"},
    "422": {"subsampling": "4:2:2"},
    "420": {"subsampling": "4:2:0"},
    "progressive": {"subsampling": "4:2:0", "progressive": True},
    "restarts": {"subsampling": "4:2:0", "restart_marker_blocks": 3},
    "grey": {"mode": "L"},
    "cmyk": {"mode": "CMYK"},
}


def colour(x, y):
    """Slopes of three colours, and a dark ring with soft edges."""
    ring = math.hypot(x - 40, y - 30) - 20
    ink = 1 / (1 + math.exp(abs(ring) - 4))
    paper = (0.6 + 0.003 * x, 0.9 - 0.004 * y, 0.5 + 0.002 * (x + y))
    return tuple(round(255 * light * (1 - 0.8 * ink)) for light in paper)


def main():
    picture = Image.new("RGB", (WIDTH, HEIGHT))
    picture.putdata([colour(x, y) for y in range(HEIGHT) for x in range(WIDTH)])
    FOLDER.mkdir(exist_ok=True)
    for name, options in FORMS.items():
        options = dict(options)
        path = FOLDER / f"{name}.jpg"
        picture.convert(options.pop("mode", "RGB")).save(path, quality=90, **options)
        Image.open(path).convert("RGB").save(FOLDER / f"{name}.png", optimize=True)
        print(path, path.stat().st_size)


if __name__ == "__main__":
    main()
