"""Check exported ONNX graphs with onnx's checker, and compare onnxruntime and the module in `python/` with `vit predict`.

    python check_onnx.py VIT

VIT is the binary. Models are trained here for a few steps, one for each kind of layer and position. Prints a line for each check
and stops at the first failure. Without onnx and onnxruntime nothing is checked.
"""

import argparse
import importlib.util
import itertools
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "python"))

TOLERANCE = 1e-5  # of a probability
LOSSY = 1e-2  # the same for a JPEG, whose decoders differ by a few of 255
BATCHES = (1, 2, 17)
CLASS_TOKEN = "pool = 'cls'\nqkv_bias = true\nactivation = 'gelu'\n"
MODELS = {
    "notebook": ("notebook", ""),
    "shallow": ("shallow", ""),
    "class-token": ("shallow", CLASS_TOKEN),
    "mean-registers": ("shallow", CLASS_TOKEN.replace("cls", "mean") + "registers = 3\n"),
    "modern": ("shallow", CLASS_TOKEN + "registers = 2\nposition_rows = 'patches'\nqk_norm = true\nlayer_scale = 0.1\n"),
    "post-norm": ("shallow", CLASS_TOKEN + "norm = 'post'\nposition = 'sincos2d'\noutput = 'softmax'\n"),
    "heads-of-their-own": ("shallow", CLASS_TOKEN + "heads = 3\nhead_dim = 5\nposition = 'none'\n"),
}


def check_graphs(vit: Any) -> None:
    """Every graph passes onnx's checker with shapes, and onnxruntime's probabilities match at each batch size."""
    import onnx
    from vit_onnx import Classifier

    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (max(BATCHES), 28, 28), dtype=np.uint8)
    pictures = [vit.folder / f"noise-{index}.png" for index in range(len(pixels))]
    for path, picture in zip(pictures, pixels, strict=True):
        Image.fromarray(picture).save(path)
    for name, (preset, model) in MODELS.items():
        (vit.folder / f"{name}.toml").write_text(f"[model]\n{model}" if model else "")
        settings = ["--preset", preset, "--config", f"{name}.toml", "--max-steps", "30", "--run-dir", name]
        vit.run("train", "--dataset", "digits", *settings)
        lines = vit.run("predict", name, *pictures, "--invert", "never").splitlines()
        ours = np.array([json.loads(line)["probabilities"] for line in lines])
        largest = 0.0
        for kind in ("float", "bytes"):
            path = vit.folder / f"{name}-{kind}.onnx"
            vit.run("export", name, "--layout", "onnx", "--input", kind, "-o", path)
            graph = onnx.load(path)
            onnx.checker.check_model(graph, full_check=True)
            if (graph.ir_version, graph.opset_import[0].version) != (8, 17):
                raise AssertionError(f"{name}: IR {graph.ir_version}, opset {graph.opset_import[0].version}")
            classifier = Classifier(path)
            images = pixels[:, None] if kind == "bytes" else (pixels[:, None] / np.float32(255) - 0.5) / np.float32(0.5)
            for batch in BATCHES:
                got = classifier.probabilities(images[:batch].astype(pixels.dtype if kind == "bytes" else np.float32))
                largest = max(largest, np.abs(got - ours[:batch]).max())
        require(f"{name}: onnx's checker is content, onnxruntime's probabilities", largest, TOLERANCE)


def pictures_of_every_kind(folder: Path) -> list[Path]:
    """A digit on paper and noise in colour, in several modes, sizes and orientations, lossless."""
    generator = np.random.default_rng(1)
    colour = Image.fromarray(generator.integers(0, 256, (40, 60, 3), dtype=np.uint8)).resize((333, 217), Image.Resampling.BICUBIC)
    paper = Image.new("L", (620, 900), 235)
    draw = ImageDraw.Draw(paper)
    draw.line([(180, 200), (450, 200), (260, 700)], fill=30, width=55)
    draw.ellipse([(40, 40), (48, 48)], fill=30)
    alpha = colour.copy()
    alpha.putalpha(paper.resize(colour.size))
    made = {
        "colour": colour,
        "paper": paper,
        "light": Image.eval(paper, lambda light: 255 - light),
        "small": paper.resize((20, 31)),
        "model-size": paper.resize((28, 28)),
        "alpha": alpha,
        "palette": colour.quantize(16),
        "grey-alpha": Image.merge("LA", (paper, paper)),
    }
    paths = []
    for name, picture in made.items():
        paths.append(folder / f"{name}.png")
        picture.save(paths[-1])
    for orientation in (3, 6, 8):
        exif = Image.Exif()
        exif[0x0112] = orientation
        paths.append(folder / f"turned-{orientation}.png")
        paper.save(paths[-1], exif=exif)
    paths.append(folder / "paper.jpg")
    paper.save(paths[-1], quality=95)
    return paths


def check_module(vit: Any) -> None:
    """Compare the module's probabilities with `vit predict`, for each way to fit a picture, inverted or not."""
    from vit_onnx import Classifier

    folder = vit.folder / "pictures"
    folder.mkdir()
    pictures = pictures_of_every_kind(folder)
    classes = vit.folder / "classes"
    for index, tint in enumerate(("red", "green")):
        (classes / tint).mkdir(parents=True)
        for number in range(8):
            generator = np.random.default_rng(100 * index + number)
            noise = generator.integers(0, 120, (50, 70, 3), dtype=np.uint8)
            noise[..., index] += 120
            Image.fromarray(noise).save(classes / tint / f"{number}.png")
    settings = ["--dataset", classes, "--test-split", "0.25", "--batch-size", "4", "--max-steps", "2", "--run-dir", "pictures-run"]
    vit.run("train", *settings)
    cases = [(run, fit) for run, first in {"shallow": "mnist", "pictures-run": "crop"}.items() for fit in (first, "pad", "stretch")]
    for (run, fit), invert in itertools.product(cases, ("never", "always")):
        vit.run("export", run, "--layout", "onnx", "-o", f"{run}-module.onnx", "--force")
        # Only `vit predict` finds strokes on paper.
        taken = [path for path in pictures if fit != "mnist" or path.stem == "model-size"]
        # By itself, so that a picture of the model's size is taken whole.
        options = [] if fit == "mnist" else ["--fit", fit]
        lines = vit.run("predict", run, *taken, *options, "--invert", invert).splitlines()
        classifier = Classifier(vit.folder / f"{run}-module.onnx", fit, invert == "always")
        worst = {}
        for path, line in zip(taken, map(json.loads, lines), strict=True):
            ours = np.array(line["probabilities"])
            got = classifier.probabilities(classifier.prepare(path)[None])[0]
            worst[path.name] = np.abs(got - ours).max()
            if classifier.predict([path])[0].index != line["class"]:
                raise AssertionError(f"{run}, {fit}, {path.name}: the class differs from `vit predict`'s")
        if fit == "mnist":
            try:
                classifier.prepare(folder / "small.png")
            except ValueError as error:
                print(f"the module on {run}, another size: {error}")
            else:
                raise AssertionError("the module takes a picture on which only `vit predict` finds strokes")
        lossy = worst.pop("paper.jpg", 0.0)
        name = max(worst, key=worst.__getitem__)
        require(f"the module on {run}, {fit}, --invert {invert}, worst {name}", worst[name], TOLERANCE)
        require(f"the module on {run}, {fit}, --invert {invert}, a JPEG", lossy, LOSSY)


def require(what: str, difference: float, tolerance: float) -> None:
    """Print a difference, and fail if it is too large."""
    if not difference <= tolerance:
        raise AssertionError(f"{what}: differ by {difference:.1e}, expected at most {tolerance:g}")
    print(f"{what}: differ by {difference:.1e}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("vit", type=Path)
    args = parser.parse_args()
    missing = [name for name in ("onnx", "onnxruntime") if importlib.util.find_spec(name) is None]
    if missing:
        print(f"{' and '.join(missing)} not installed: ONNX is left out")
        return
    from check_interchange import Vit

    with tempfile.TemporaryDirectory() as scratch:
        vit = Vit(args.vit, Path(scratch))
        check_graphs(vit)
        check_module(vit)


if __name__ == "__main__":
    main()
