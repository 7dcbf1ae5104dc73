"""Write a fixture of tests/fixtures/hf: a folder saved by transformers, with its results.

    python hf_fixtures.py [--out DIR]

With transformers 4 it writes `hf/4`, with 5.9 or newer `hf/5`, the latter under the names of the `state_dict` of that
version. See README.md for what each file holds.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

import checks
from layouts import State, native_from_hf
from make_fixtures import FIXTURES, prefixed, write

COMMON: dict[str, Any] = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 48,
    "num_labels": 7,
}
IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}

# By major version: the model, the normalisation, and how it is saved.
CASES: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "4": ({"image_size": 32, "patch_size": 8}, {}, {}),
    "5": (
        {"image_size": [12, 24], "patch_size": [4, 6], "qkv_bias": False, "layer_norm_eps": 1e-5},
        IMAGENET,
        {"save_original_format": False},
    ),
}


class Logits(nn.Module):
    """The model, returning only its logits."""

    def __init__(self, model: ViTForImageClassification) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model(pixel_values=images).logits


def build(config: ViTConfig) -> ViTForImageClassification:
    """A model with every parameter randomised."""
    torch.manual_seed(41)
    model = ViTForImageClassification(config).eval()
    for parameter in model.parameters():
        parameter.data += (0.2 if parameter.dim() == 1 else 0.1) * torch.randn(parameter.shape)
    return model


def gradients(model: ViTForImageClassification, images: Tensor, labels: Tensor) -> tuple[Tensor, State]:
    """The output, and the gradients by native names."""
    output, state = checks.gradients(Logits(model), images, labels)
    return output, native_from_hf({name.removeprefix("model."): gradient for name, gradient in state.items()})


def check_gradients(model: ViTForImageClassification, images: Tensor, labels: Tensor, state: State) -> None:
    """float32 gradients match float64 within a tenth of the tests' tolerance, except a key's bias, whose gradient is zero."""
    exact = ViTForImageClassification(model.config).eval().double()
    exact.load_state_dict(model.state_dict())
    _, expected = gradients(exact, images.double(), labels)
    for name, gradient in state.items():
        pieces = zip(gradient.chunk(3), expected[name].chunk(3), strict=True)
        for part, (got, want) in enumerate(pieces):
            if not (name.endswith("attn.qkv.bias") and part == 1):
                checks.require_close(f"gradient of {name}", got.double(), want, 1e-5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=FIXTURES)
    args = parser.parse_args()
    torch.set_num_threads(1)
    version = transformers.__version__.split(".")[0]
    settings, scaling, saved = CASES[version]
    model = build(ViTConfig(**COMMON, **settings))
    height, width = (side if isinstance(side, int) else side[at] for at, side in enumerate([settings["image_size"]] * 2))
    folder = args.out / "hf" / version
    model.save_pretrained(folder, **saved)
    processor = ViTImageProcessor(size={"height": height, "width": width}, **scaling)
    processor.save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)

    pixels = torch.randint(0, 256, (3, 3, height, width))
    mean, std = (torch.tensor(values)[:, None, None] for values in (processor.image_mean, processor.image_std))
    images = (pixels / 255 - mean) / std
    labels = torch.randperm(COMMON["num_labels"])[:3]
    output, state = gradients(model, images, labels)
    check_gradients(model, images, labels, state)
    tensors = {"pixels": pixels, "images": images, "labels": labels, "output": output}
    tensors |= {"loss": F.cross_entropy(output, labels).reshape(1)} | prefixed("grad.", state)
    write(folder / "reference.safetensors", tensors, {})
    for path in sorted(folder.iterdir()):
        print(f"{path.stat().st_size:>9,}  {path.relative_to(args.out)}")


if __name__ == "__main__":
    main()
