"""Exchange models with timm and transformers through the `vit` binary, and compare the results.

    python check_interchange.py VIT [--only NAMES]

VIT is the binary. Models have random weights: `vit import` reads a full-size ViT-Ti/16 of timm and of transformers and `vit predict`
classifies with it; both libraries open an exported class-token model of `vit train`. Prints a line for each check and stops at
the first failure. A library that is not installed is skipped.

Every timm ViT of up to 90 million parameters is imported, or rejected naming what is unsupported; `--only 'vit_tiny*'` checks
only these models.
"""

import argparse
import importlib.metadata
import importlib.util
import json
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from PIL import Image
from torch import Tensor, nn

from photo import photo

TOLERANCE = 1e-4  # of the largest entry, as for committed fixtures
PIPELINE_TOLERANCE = 1e-5  # of a probability
CLOSE = 1e-5  # of the largest entry, of a whole model with random weights
MOST_PARAMETERS = 90_000_000
REFUSED = "unsupported "
PICTURES = 2
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
AS_THEY_ARE = ["--fit", "stretch", "--invert", "never"]  # neither cropped nor taken for ink on paper
VIEWED = 1e-3  # of the largest entry, where each side prepares the picture by itself
CLASS_TOKEN = "[model]\npool = 'cls'\nqkv_bias = true\nactivation = 'gelu'\n"

FOLDERS = {
    "class-token": CLASS_TOKEN,
    "modern": "[model]\npool = 'mean'\nqkv_bias = true\nactivation = 'relu'\nregisters = 2\nqk_norm = true\n"
    "layer_scale = 0.1\nlayer_norm_eps = 1e-6\nposition_rows = 'patches'\nmlp_dim = 100\n",
}

MODERN: dict[str, dict[str, Any]] = {
    "vit_medium_patch16_gap_240": {},
    "deit3_small_patch16_224": {},
    "vit_small_patch14_reg4_dinov2": {"img_size": 224},
}

Logits = Callable[[Tensor], Tensor]


class Vit:
    """The binary, in its own folder."""

    def __init__(self, binary: Path, folder: Path) -> None:
        self.binary, self.folder = binary.resolve(), folder

    def run(self, *words: str | Path) -> str:
        """A command's stdout."""
        done = self.start(*words)
        if done.returncode:
            raise AssertionError(f"vit {' '.join(map(str, words))}: {done.stderr}")
        return done.stdout

    def start(self, *words: str | Path) -> subprocess.CompletedProcess[str]:
        """A command's result."""
        return subprocess.run([self.binary, *words], cwd=self.folder, capture_output=True, text=True)

    def logits(self, model: str, pictures: list[Path], flags: list[str] = AS_THEY_ARE) -> Tensor:
        """The logits of pictures minus their mean, which probabilities do not determine."""
        lines = self.run("predict", model, *pictures, *flags).splitlines()
        probabilities = torch.tensor([json.loads(line)["probabilities"] for line in lines], dtype=torch.float64)
        return centred(probabilities.log())


def centred(logits: Tensor) -> Tensor:
    """The logits of each row minus their mean."""
    return logits - logits.mean(dim=1, keepdim=True)


def noise(folder: Path, size: int, mode: str) -> tuple[list[Path], Tensor]:
    """Pictures, and their pixels in [0, 1] as (picture, channel, row, column)."""
    generator = np.random.default_rng(0)
    shape = (PICTURES, size, size, 3) if mode == "RGB" else (PICTURES, size, size)
    pixels = generator.integers(0, 256, shape, dtype=np.uint8)
    paths = [folder / f"{mode}-{index}.png" for index in range(PICTURES)]
    for path, picture in zip(paths, pixels, strict=True):
        Image.fromarray(picture, mode).save(path)
    channels_first = pixels.transpose(0, 3, 1, 2) if mode == "RGB" else pixels[:, None]
    return paths, torch.from_numpy(channels_first / 255).float()


def photos(folder: Path) -> list[Path]:
    """Photos of 500x375 as JPEG, as cameras write it."""
    paths = [folder / f"photo-{seed}.jpg" for seed in range(PICTURES)]
    for seed, path in enumerate(paths):
        photo(seed).save(path, quality=88)
    return paths


def scaled(pixels: Tensor, mean: Any = 0.5, std: Any = 0.5) -> Tensor:
    """Normalised pixels."""
    mean, std = (torch.tensor(value).reshape(-1, 1, 1) for value in (mean, std))
    return (pixels - mean) / std


def roughened(model: nn.Module, seed: int) -> nn.Module:
    """The model with every parameter randomised."""
    torch.manual_seed(seed)
    for parameter in model.parameters():
        parameter.data += (0.1 if parameter.dim() == 1 else 0.02) * torch.randn(parameter.shape)
    return model.eval()


def compare(what: str, got: Tensor, model: Logits, images: Tensor, tolerance: float = TOLERANCE) -> None:
    """Compare our logits with the other library's."""
    with torch.no_grad():
        expected = centred(model(images).double())
    share = ((got - expected).abs().max() / expected.abs().max()).item()
    if not share <= tolerance:
        raise AssertionError(f"{what}: logits differ by {share:.1e} of the largest, expected at most {tolerance:g}")
    print(f"{what}: logits differ by {share:.1e} of the largest")


def check_timm(vit: Vit) -> None:
    """timm's ViT-Ti/16 and later models as bare state dicts, and a folder with ImageNet's normalisation."""
    import timm
    from timm.models import save_for_hf

    pictures, pixels = noise(vit.folder, 224, "RGB")
    model = roughened(timm.create_model("vit_tiny_patch16_224"), 1)
    safetensors.torch.save_file(model.state_dict(), vit.folder / "timm.safetensors")
    vit.run("import", "timm.safetensors", "-o", "from-timm.safetensors")
    compare("timm's ViT-Ti/16, its state dict", vit.logits("from-timm.safetensors", pictures), model, scaled(pixels))

    # Mean pooling without a class token; layer scale with positions of patches only; registers.
    for seed, (name, settings) in enumerate(MODERN.items()):
        model = roughened(timm.create_model(name, num_classes=10, **settings), 10 + seed)
        safetensors.torch.save_file(model.state_dict(), vit.folder / "modern.safetensors")
        vit.run("import", "modern.safetensors", "-o", "from-modern.safetensors", "--force")
        pictures, pixels = noise(vit.folder, model.patch_embed.img_size[0], "RGB")
        compare(f"timm's {name}", vit.logits("from-modern.safetensors", pictures), model, scaled(pixels))
    pictures, pixels = noise(vit.folder, 224, "RGB")

    model = roughened(timm.create_model("deit_tiny_patch16_224"), 2)
    if any(tuple(model.pretrained_cfg[name]) != value for name, value in IMAGENET.items()):
        raise AssertionError("timm's normalisation of DeiT differs from what this check expects")
    save_for_hf(model, vit.folder / "timm", safe_serialization=True)
    vit.run("import", "timm", "-o", "from-folder.safetensors")
    images = scaled(pixels, **IMAGENET)
    compare("timm's DeiT-Ti/16, its folder", vit.logits("from-folder.safetensors", pictures), model, images)

    # Photos as each side prepares them.
    from timm.data import create_transform, resolve_data_config

    view = create_transform(**resolve_data_config(model.pretrained_cfg))
    paths = photos(vit.folder)
    images = torch.stack([view(Image.open(path)) for path in paths])
    compare("photos to timm's DeiT-Ti/16", vit.logits("from-folder.safetensors", paths, []), model, images, VIEWED)


def check_timms_list(vit: Vit, only: str) -> None:
    """Every ViT of timm, saved as a folder: equal logits to 1e-5, or rejected by name."""
    import timm
    from timm.models import save_for_hf

    names = [name for module in ("vision_transformer", "deit") for name in timm.list_models(only, module=module)]
    taken = refused = 0
    for name in names:
        with torch.device("meta"):
            parameters = sum(parameter.numel() for parameter in timm.create_model(name, num_classes=10).parameters())
        if parameters > MOST_PARAMETERS:
            continue
        # As timm makes it, a class token of next to nothing is all rounding where only patches have positions.
        model = roughened(timm.create_model(name, num_classes=10), 0)
        shutil.rmtree(vit.folder / "listed", ignore_errors=True)
        save_for_hf(model, vit.folder / "listed", safe_serialization=True)
        done = vit.start("import", "listed", "-o", "from-listed.safetensors", "--force")
        if done.returncode:
            said = done.stderr.strip().splitlines()
            reason = next((line for line in said if REFUSED in line), None)
            if reason is None:
                raise AssertionError(f"timm's {name} is neither imported nor rejected by name: {done.stderr}")
            print(f"timm's {name}: {reason[reason.index(REFUSED):]}")
            refused += 1
            continue
        size = model.patch_embed.img_size[0]
        pictures, pixels = noise(vit.folder, size, "RGB")
        cfg = model.pretrained_cfg
        images = scaled(pixels, tuple(cfg["mean"]), tuple(cfg["std"]))
        compare(f"timm's {name}", vit.logits("from-listed.safetensors", pictures), model, images, CLOSE)
        taken += 1
    print(f"timm's list: {taken} models agree, {refused} are refused by name")


def check_timm_opens_ours(vit: Vit) -> None:
    """An exported class-token model, loaded strictly into timm's class."""
    from timm.models.vision_transformer import VisionTransformer

    vit.run("export", "run", "--layout", "timm", "-o", "to-timm.safetensors")
    model = VisionTransformer(
        img_size=28, patch_size=7, in_chans=1, num_classes=10, embed_dim=32, depth=3, num_heads=4, mlp_ratio=4
    ).eval()
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = 1e-5  # the run's epsilon
    model.load_state_dict(safetensors.torch.load_file(vit.folder / "to-timm.safetensors"), strict=True)
    pictures, pixels = noise(vit.folder, 28, "L")
    compare("ours in timm", vit.logits("run", pictures), model, scaled(pixels))


def check_timm_opens_a_folder(vit: Vit) -> None:
    """Exported folders through `create_model("local-dir:...")`: with mean pooling and with a class token, and later features."""
    import timm

    for name, settings in FOLDERS.items():
        (vit.folder / f"{name}.toml").write_text(settings)
        run = ["--dataset", "digits", "--config", f"{name}.toml", "--max-steps", "30", "--run-dir", f"run-{name}"]
        vit.run("train", *run)
        vit.run("export", f"run-{name}", "--layout", "timm", "-o", f"folder-{name}/")
        model = timm.create_model(f"local-dir:{vit.folder / f'folder-{name}'}", pretrained=True).eval()
        scaling = timm.data.resolve_model_data_config(model)
        if scaling["input_size"] != (1, 28, 28) or model.pretrained_cfg["label_names"] != [str(i) for i in range(10)]:
            raise AssertionError(f"{name}: timm read {scaling}, {model.pretrained_cfg['label_names']}")
        pictures, pixels = noise(vit.folder, 28, "L")
        images = scaled(pixels, scaling["mean"], scaling["std"])
        compare(f"ours in timm by local-dir, {name}", vit.logits(f"run-{name}", pictures), model, images)


def check_transformers(vit: Vit) -> None:
    """transformers' ViT of ViT-Ti/16's size: folders written by `save_pretrained`."""
    import transformers
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

    config = ViTConfig(
        hidden_size=192, num_hidden_layers=12, num_attention_heads=3, intermediate_size=768, num_labels=1000
    )
    model = roughened(ViTForImageClassification(config), 3)
    pictures, pixels = noise(vit.folder, 224, "RGB")
    major = int(transformers.__version__.split(".")[0])
    for what, kind in {"": {}, ", names of its state dict": {"save_original_format": False}}.items():
        if kind and major < 5:
            continue
        model.save_pretrained(vit.folder / "hf", **kind)
        ViTImageProcessor(image_mean=IMAGENET["mean"], image_std=IMAGENET["std"]).save_pretrained(vit.folder / "hf")
        vit.run("import", "hf", "-o", "from-hf.safetensors", "--force")
        images = scaled(pixels, **IMAGENET)
        logits = vit.logits("from-hf.safetensors", pictures)
        compare(f"transformers' ViT-Ti/16{what}", logits, lambda xs: model(pixel_values=xs).logits, images)

    # Photos as each side prepares them.
    paths = photos(vit.folder)
    processor = ViTImageProcessor.from_pretrained(vit.folder / "hf")
    images = processor([Image.open(path) for path in paths], return_tensors="pt")["pixel_values"]
    logits = vit.logits("from-hf.safetensors", paths, [])
    compare("photos to transformers' ViT-Ti/16", logits, lambda xs: model(pixel_values=xs).logits, images, VIEWED)

    # Positions for another image size, resampled like transformers.
    for side in (96, 288):
        pictures, pixels = noise(vit.folder, side, "RGB")
        vit.run("import", "hf", "-o", f"at-{side}.safetensors", "--image-size", str(side))
        logits = vit.logits(f"at-{side}.safetensors", pictures)
        images = scaled(pixels, **IMAGENET)
        interpolated = partial(model, interpolate_pos_encoding=True)
        compare(f"transformers' ViT-Ti/16 at {side} px", logits, lambda xs: interpolated(pixel_values=xs).logits, images)


def check_transformers_opens_ours(vit: Vit) -> None:
    """An exported class-token model: no missing key, no unexpected one, the same logits."""
    from transformers import ViTForImageClassification, ViTImageProcessor

    vit.run("export", "run", "--layout", "hf", "-o", "to-hf")
    folder = vit.folder / "to-hf"
    model, told = ViTForImageClassification.from_pretrained(folder, output_loading_info=True)
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"):
        if told[kind]:
            raise AssertionError(f"ours in transformers: {kind} {told[kind]}")
    processor = ViTImageProcessor.from_pretrained(folder)
    pictures, pixels = noise(vit.folder, 28, "L")
    # A grey model has three channels in transformers.
    images = scaled(pixels.repeat(1, 3, 1, 1), processor.image_mean, processor.image_std)
    logits = vit.logits("run", pictures)
    compare("ours in transformers, every key matched", logits, lambda xs: model.eval()(pixel_values=xs).logits, images)
    # And back: the folder that transformers saves gives the same model.
    model.save_pretrained(vit.folder / "again")
    processor.save_pretrained(vit.folder / "again")
    for folder_name in ("to-hf", "again"):
        vit.run("import", folder_name, "-o", f"{folder_name}.safetensors")
    ours, theirs = ((vit.folder / f"{name}.safetensors").read_bytes() for name in ("to-hf", "again"))
    if ours != theirs:
        raise AssertionError("our model differs after a round trip through transformers")
    print("ours through transformers and back: the same bytes")


def check_pipeline(vit: Vit) -> None:
    """`pipeline("image-classification")` on the folder of a grey model: grey pictures get our probabilities."""
    from transformers import pipeline

    classify = pipeline("image-classification", model=str(vit.folder / "to-hf"))
    pictures, _pixels = noise(vit.folder, 28, "L")
    lines = vit.run("predict", "run", *pictures, "--invert", "never").splitlines()
    largest = 0.0
    for path, line in zip(pictures, lines, strict=True):
        ours = json.loads(line)["probabilities"]
        theirs = {answer["label"]: answer["score"] for answer in classify(str(path), top_k=10)}
        largest = max(largest, *(abs(theirs[str(index)] - probability) for index, probability in enumerate(ours)))
    if not largest <= PIPELINE_TOLERANCE:
        raise AssertionError(f"pipeline: probabilities differ by {largest:.1e}, expected at most {PIPELINE_TOLERANCE:g}")
    card = (vit.folder / "to-hf" / "README.md").read_text()
    if not card.startswith("---\nlibrary_name: transformers\npipeline_tag: image-classification\n"):
        raise AssertionError(f"the model card begins with {card[:80]!r}")
    print(f"a pipeline of a grey model: probabilities differ by {largest:.1e}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("vit", type=Path)
    parser.add_argument("--only", default="*", metavar="NAMES", help="only timm models with matching names")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as scratch:
        vit = Vit(args.vit, Path(scratch))
        (vit.folder / "cls.toml").write_text(CLASS_TOKEN)
        vit.run("train", "--dataset", "digits", "--config", "cls.toml", "--max-steps", "30", "--run-dir", "run")
        for library, checks in {
            "timm": [
                check_timm,
                check_timm_opens_ours,
                check_timm_opens_a_folder,
                partial(check_timms_list, only=args.only),
            ],
            "transformers": [check_transformers, check_transformers_opens_ours, check_pipeline],
        }.items():
            if importlib.util.find_spec(library) is None:
                print(f"{library} is not installed: left out")
                continue
            print(f"{library} {importlib.metadata.version(library)}")
            for check in checks:
                check(vit)


if __name__ == "__main__":
    main()
