"""Remake the pictures of the README and the book.

    python docs/pictures/make.py --vit target/debug/vit --mnist DIR --work target/pictures

DIR is a folder with MNIST's four files. `--work` keeps the runs; an existing run is not trained again. Needs only Python
and, for pages, Chromium.
"""

import argparse
import base64
import gzip
import json
import re
import shutil
import struct
import subprocess
import tempfile
import zlib
from pathlib import Path

HERE = Path(__file__).parent
SIDE, PATCH = 28, 7
# Indices in the test set of the book's image, and of one that is hard to read.
DIGIT, HARD = 1, 18
RUNS = {
    "recipe": ["--config", HERE / "run.toml"],
    "shallow": ["--preset", "shallow"],
    "notebook": ["--preset", "notebook"],
}


def images(folder):
    """The test images as bytes."""
    path = folder / "t10k-images-idx3-ubyte"
    data = path.read_bytes() if path.exists() else gzip.decompress(Path(f"{path}.gz").read_bytes())
    return [data[at : at + SIDE * SIDE] for at in range(16, len(data), SIDE * SIDE)]


def png(rows, channels):
    """A PNG file of rows of bytes, grey or RGB."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    colour_type = {1: 0, 3: 2}[channels]
    header = struct.pack(">IIBBBBB", len(rows[0]) // channels, len(rows), 8, colour_type, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + bytes(row) for row in rows), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def rows_of(image, left=0, top=0, side=SIDE):
    return [image[(top + y) * SIDE + left :][:side] for y in range(side)]


def picture(data, x, y, width, height):
    """A PNG inside an SVG, with square pixels."""
    href = f"data:image/png;base64,{base64.b64encode(data).decode()}"
    return (
        f'<image x="{x}" y="{y}" width="{width}" height="{height}" preserveAspectRatio="none" '
        f'style="image-rendering:pixelated" href="{href}"/>'
    )


def tile(data, x, y, side):
    """A patch with a border that is visible on a dark background too."""
    border = f'<rect x="{x}" y="{y}" width="{side}" height="{side}" fill="none" stroke="#9198a1"/>'
    return [picture(data, x, y, side, side), border]


def svg(width, height, parts):
    style = (
        "text { font: 13px system-ui, 'DejaVu Sans', sans-serif; fill: #1f2328; text-anchor: middle } "
        "@media (prefers-color-scheme: dark) { text { fill: #f0f6fc } .ground { fill: #0d1117 } }"
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">\n'
        f'<style>{style}</style>\n<rect class="ground" width="100%" height="100%" fill="#ffffff"/>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def text(x, y, words):
    return f'<text x="{x}" y="{y}">{words}</text>'


def patches(image):
    """The image, the grid of its patches, and the patches in token order."""
    parts = [picture(png(rows_of(image), 1), 156, 30, 186, 186)]
    parts += [text(249, 20, "image, 28 x 28"), text(505, 20, "16 patches of 7 x 7"), text(378, 246, "row by row")]
    count, size, gap = SIDE // PATCH, 42, 6
    for index in range(count * count):
        row, column = divmod(index, count)
        patch = png(rows_of(image, column * PATCH, row * PATCH, PATCH), 1)
        parts += tile(patch, 412 + column * (size + gap), 30 + row * (size + gap), size)
        parts += tile(patch, 12 + index * 46, 258, 40)
        parts.append(text(32 + index * 46, 316, index))
    return svg(756, 328, parts)


def tensors(path):
    """The numbers of a safetensors file, by name, with their shapes."""
    data = path.read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    header, body = json.loads(data[8 : 8 + size]), data[8 + size :]
    header.pop("__metadata__", None)
    numbers = {}
    for name, entry in header.items():
        values = body[slice(*entry["data_offsets"])]
        numbers[name] = entry["shape"], struct.unpack(f"<{len(values) // 4}f", values)
    return numbers


def colour(value):
    """The report's colour of a number in [-1, 1]: blue below zero, white, red above."""
    stops = [(33, 102, 172), (146, 197, 222), (247, 247, 247), (244, 165, 130), (178, 24, 43)]
    at = (min(max(value, -1), 1) + 1) * 2
    low = min(int(at), 3)
    return [round(a + (b - a) * (at - low)) for a, b in zip(stops[low], stops[low + 1])]


def heat(rows, largest):
    return png([[byte for value in row for byte in colour(value / largest)] for row in rows], 3)


def embedding(model):
    """The patch embedding's weights as images, one for each number of a token."""
    shape, weight = model["patch_embed.proj.weight"]
    parts, size, area = [], 42, PATCH * PATCH
    for index in range(shape[0]):
        filter_ = weight[index * area : (index + 1) * area]
        rows = [filter_[y * PATCH : (y + 1) * PATCH] for y in range(PATCH)]
        row, column = divmod(index, 16)
        parts.append(picture(heat(rows, max(map(abs, filter_))), 10 + column * 46, 10 + row * 48, size, size))
    return svg(756, 110, parts)


def tokens(model, image):
    """The tokens at the first block's input, one a row."""
    (dim, *_), weight = model["patch_embed.proj.weight"]
    bias, positions = model["patch_embed.proj.bias"][1], model["pos_embed"][1]
    area, count = PATCH * PATCH, SIDE // PATCH
    matrix = []
    for index in range(count * count):
        row, column = divmod(index, count)
        patch = b"".join(rows_of(image, column * PATCH, row * PATCH, PATCH))
        pixels = [(byte / 255 - 0.5) / 0.5 for byte in patch]
        sums = [sum(w * x for w, x in zip(weight[d * area :], pixels)) for d in range(dim)]
        matrix.append([sums[d] + bias[d] + positions[index * dim + d] for d in range(dim)])
    largest = max(abs(value) for row in matrix for value in row)
    parts = [picture(heat(matrix, largest), 60, 30, 640, 320), text(380, 20, "32 numbers of each token")]
    parts += [text(44, 45 + index * 20, index) for index in range(count * count)]
    return svg(756, 362, parts)


def shoot(page, target, width, scale=1.5, dark=False, height=None):
    """A screenshot of a page in Chromium, at full height by default."""
    scheme = f"--blink-settings=preferredColorScheme={0 if dark else 1}"
    common = ["chromium", "--headless", "--no-sandbox", "--hide-scrollbars", scheme]
    common.append(f"--force-device-scale-factor={scale}")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "page.html"
        told = "<script>document.documentElement.dataset.height = document.querySelector('main').scrollHeight</script>"
        file.write_text(page.replace("</body>", f"{told}</body>"))
        address = file.as_uri()
        if height is None:
            arguments = [f"--window-size={width},800", "--dump-dom", address]
            dom = subprocess.run([*common, *arguments], check=True, capture_output=True, text=True).stdout
            height = int(re.search(r'data-height="(\d+)"', dom)[1])
        arguments = [f"--window-size={width},{height}", f"--screenshot={target}", address]
        subprocess.run([*common, *arguments], check=True, capture_output=True)


def part(page, body, style=""):
    """A page with one part of a report."""
    head = page[: page.index("</style>")] + "main { padding: .75rem 1rem } h2 { margin-top: .5rem }" + style
    return f"{head}</style></head><body><main>{body}</main></body></html>"


def section(page, title):
    found = [s for s in re.findall(r"<section>.*?</section>", page, re.S) if f"<h2>{title}</h2>" in s]
    return found[0]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vit", type=Path, required=True)
    parser.add_argument("--mnist", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)

    def vit(*words, **options):
        subprocess.run([args.vit.resolve(), *words], check=True, **options)

    runs = {name: args.work / name for name in RUNS}
    for name, words in RUNS.items():
        if not (runs[name] / "report.html").exists():
            vit("train", "--dataset", "mnist", "--data-dir", args.mnist.parent, *words, "--run-dir", runs[name])
    run = runs["recipe"]
    test = images(args.mnist)
    digit, hard = HERE / "digit.png", HERE / "hard.png"
    digit.write_bytes(png(rows_of(test[DIGIT]), 1))
    hard.write_bytes(png(rows_of(test[HARD]), 1))
    vit("explain", run, digit, "-o", HERE / "explain.png")
    vit("explain", run, hard, "-o", HERE / "explain-hard.png")

    model = tensors(run / "model.safetensors")
    (HERE / "patches.svg").write_text(patches(test[DIGIT]))
    (HERE / "embedding.svg").write_text(embedding(model))
    (HERE / "tokens.svg").write_text(tokens(model, test[DIGIT]))
    for name in ["training-accuracy.svg", "training-loss.svg"]:
        shutil.copyfile(run / "plots" / name, HERE / name)

    report = (run / "report.html").read_text()
    shoot(report, HERE / "report-light.png", 1100, height=770)
    shoot(report, HERE / "report-dark.png", 1100, height=770, dark=True)
    samples = re.findall(r'<div class="sample".*?</table></div>\n</div>', section(report, "Attention"), re.S)
    large = ".map { width: 5.6rem; height: 5.6rem } .maps td, .maps th { font-size: .9rem }"
    shoot(part(report, samples[2], large), HERE / "attention.png", 620)
    shoot(part(report, section(report, "Positions")), HERE / "positions.png", 520)
    shoot(part(report, section(report, "Confusion and classes")), HERE / "confusion.png", 1000)
    mistakes = section(report, "Worst mistakes").split("<figure>")
    shoot(part(report, "<figure>".join(mistakes[:9]) + "</div></section>"), HERE / "mistakes.png", 880)

    vit("compare", *runs, "-o", "compare.html", cwd=args.work)
    comparison = (args.work / "compare.html").read_text()
    shoot(part(comparison, section(comparison, "Curves")), HERE / "compare.png", 780)


if __name__ == "__main__":
    main()
