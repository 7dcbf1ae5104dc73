"""Write the fixtures of tests/fixtures/timm: timm's results, for the Rust tests.

    python timm_fixtures.py [--out DIR]

Small models of timm's own `VisionTransformer` with random weights, and tables of positions resampled by timm. README.md
describes each file.
"""

import argparse
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import Attention, resample_abs_pos_embed
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

import checks
from layouts import State
from make_fixtures import FIXTURES, parameters, prefixed, write


class NarrowHeads(Attention):
    """timm's attention with heads of another width than `dim / heads`, which its model has no argument for."""

    WIDTH = 5

    def __init__(self, dim: int, **settings: Any) -> None:
        super().__init__(dim, attn_head_dim=self.WIDTH, **settings)


@dataclass(frozen=True)
class Case:
    """A model's settings in timm and, where they differ, in our configuration."""

    name: str
    seed: int
    image: tuple[int, int]
    patch: tuple[int, int]
    dim: int
    heads: int
    qkv_bias: bool = True
    settings: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)

    CHANNELS = 3
    DEPTH = 2
    CLASSES = 7

    def build(self) -> VisionTransformer:
        """timm's model."""
        return VisionTransformer(
            img_size=self.image,
            patch_size=self.patch,
            in_chans=self.CHANNELS,
            num_classes=self.CLASSES,
            embed_dim=self.dim,
            depth=self.DEPTH,
            num_heads=self.heads,
            mlp_ratio=2.0,
            qkv_bias=self.qkv_bias,
            **self.settings,
        )

    def to_dict(self) -> dict[str, Any]:
        """The configuration as the JSON object that fixtures carry."""
        return {
            "image": {"height": self.image[0], "width": self.image[1], "channels": self.CHANNELS},
            "patch": {"height": self.patch[0], "width": self.patch[1]},
            "dim": self.dim,
            "depth": self.DEPTH,
            "heads": self.heads,
            "mlp_dim": 2 * self.dim,
            "classes": self.CLASSES,
            "position": "learned",
            "score_scale": "head_dim",
            "output": "logits",
            "pool": "cls",
            "activation": "gelu",
            "qkv_bias": self.qkv_bias,
            "dropout": {"embedding": 0.0, "attention": 0.0, "projection": 0.0, "mlp": 0.0},
            "drop_path": 0.0,
            "layer_norm_eps": 1e-6,
        } | self.config


CASES = [
    Case("plain", 31, image=(32, 32), patch=(8, 8), dim=24, heads=3),
    Case(
        "registers",
        32,
        image=(32, 32),
        patch=(8, 8),
        dim=24,
        heads=4,
        settings={"qk_norm": True, "init_values": 0.1, "reg_tokens": 4, "no_embed_class": True},
        config={"qk_norm": True, "layer_scale": 0.1, "registers": 4, "position_rows": "patches"},
    ),
    Case(
        "narrow-heads",
        33,
        image=(12, 24),
        patch=(4, 6),
        dim=24,
        heads=3,
        qkv_bias=False,
        settings={"reg_tokens": 2, "attn_layer": NarrowHeads},
        config={"head_dim": NarrowHeads.WIDTH, "registers": 2},
    ),
]

RESAMPLED = {
    "up": (1, (4, 4), (7, 7)),
    "down": (0, (9, 9), (4, 4)),
    "wide": (5, (3, 5), (6, 4)),
    "224-at-384": (1, (14, 14), (24, 24)),
}


def model_tensors(case: Case) -> State:
    """Everything of one model's fixture."""
    torch.manual_seed(case.seed)
    model = case.build().eval()
    for name, parameter in model.named_parameters():
        # timm initialises biases to 0, norms to 1, tokens to 1e-6 and weights narrowly: randomise all of them.
        parameter.data += (0.2 if parameter.dim() == 1 else 0.1) * torch.randn(parameter.shape)
    images = torch.randn(3, case.CHANNELS, *case.image)
    labels = torch.randperm(case.CLASSES)[:3]
    output, gradients = checks.gradients(model, images, labels)
    check_gradients(case, model, images, labels, gradients)
    tensors = {"images": images, "labels": labels, "output": output, "loss": F.cross_entropy(output, labels).reshape(1)}
    return tensors | prefixed("param.", parameters(model)) | prefixed("grad.", gradients)


def check_gradients(case: Case, model: VisionTransformer, images: Tensor, labels: Tensor, gradients: State) -> None:
    """Every parameter has a gradient, and float32 matches float64 within a tenth of the tests' tolerance."""
    names = {name for name, _ in model.named_parameters()}
    if gradients.keys() != names:
        raise AssertionError(f"{case.name}: no gradient for {sorted(names - gradients.keys())}")
    exact = case.build().eval().double()
    exact.load_state_dict(model.state_dict())
    _, expected = checks.gradients(exact, images.double(), labels)
    zero = without_effect(gradients)
    for name, gradient in gradients.items():
        if name not in zero:
            checks.require_close(f"{case.name}: gradient of {name}", gradient.double(), expected[name], 1e-5)


def without_effect(state: State) -> set[str]:
    """Parameters whose exact gradient is zero: with QK norm, the bias of the keys' norm adds the same to all scores."""
    return {name for name in state if name.endswith("attn.k_norm.bias")}


def resample_tensors() -> State:
    """Position tables, and timm's resampling of them to another grid."""
    tensors: State = {}
    for seed, (name, (prefix, old, new)) in enumerate(RESAMPLED.items()):
        torch.manual_seed(seed)
        table = torch.randn(1, prefix + old[0] * old[1], 4)
        tensors[f"{name}.table"] = table
        tensors[f"{name}.resampled"] = resample_abs_pos_embed(table, list(new), list(old), num_prefix_tokens=prefix)
        tensors[f"{name}.sizes"] = torch.tensor([prefix, *old, *new])
    return tensors


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=FIXTURES)
    args = parser.parse_args()
    torch.set_num_threads(1)
    for case in CASES:
        write(args.out / "timm" / f"{case.name}.safetensors", model_tensors(case), {"config": case.to_dict()})
    write(args.out / "timm" / "resampled.safetensors", resample_tensors(), {})
    for path in sorted((args.out / "timm").iterdir()):
        print(f"{path.stat().st_size:>9,}  {path.name}")


if __name__ == "__main__":
    main()
