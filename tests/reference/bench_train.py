"""Time PyTorch's training step on MNIST: what the Rust trainer is compared with.

    python bench_train.py --variant seed|careful --preset notebook|shallow --threads N --steps N --mnist DIR

`seed` is the notebook's code: separate heads, Adam as it comes. `careful` is the same model with one qkv product,
`scaled_dot_product_attention` and fused Adam. Both: batch 64, dropout 0.2, Adam 3e-4, float32. A step is forward,
loss, zero_grad, backward and update on a batch that already lies in memory; gathering, scaling and counting accuracy
are outside the clock, which is in PyTorch's favour. Prints one JSON object.
"""

import argparse
import json
import platform
import statistics
import time
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import mnist
import shallow_model
import vit

BATCH = 64
WARM_UP = 20
RATE = 0.2


class FusedAttention(vit.Attention):
    """`vit.Attention` by PyTorch's `scaled_dot_product_attention`."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        dropout = self.weight_dropout.p if self.training else 0.0
        return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, scale=self.scale)


def careful_model(preset: str) -> nn.Module:
    """The preset with the notebook's dropout and fused attention."""
    config = replace(vit.PRESETS[preset], dropout=vit.Dropout(attention=RATE, projection=RATE, mlp=RATE))
    model = vit.VisionTransformer(config)
    for block in model.blocks:
        block.attn = FusedAttention(config)
    return model


def build(variant: str, preset: str) -> tuple[nn.Module, torch.optim.Optimizer]:
    """The model in training mode, and its optimiser."""
    if variant == "seed":
        model = shallow_model.seed_style(preset).train()
        return model, torch.optim.Adam(model.parameters(), lr=3e-4)
    model = careful_model(preset).train()
    return model, torch.optim.Adam(model.parameters(), lr=3e-4, fused=True)


def step(model: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor) -> None:
    """One step of training."""
    loss = F.cross_entropy(model(images), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def time_steps(variant: str, preset: str, steps: int, images: Tensor, labels: Tensor) -> list[float]:
    """Milliseconds of each of `steps` steps over random batches, after a warm-up."""
    torch.manual_seed(0)
    model, optimizer = build(variant, preset)
    milliseconds = []
    for _ in range(WARM_UP + steps):
        batch = torch.randint(len(labels), (BATCH,))
        xs, ys = images[batch], labels[batch]
        start = time.perf_counter()
        step(model, optimizer, xs, ys)
        milliseconds.append((time.perf_counter() - start) * 1e3)
    return milliseconds[WARM_UP:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", choices=["seed", "careful"], required=True)
    parser.add_argument("--preset", choices=["notebook", "shallow"], default="shallow")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--mnist", type=Path, required=True, help="folder of the four IDX files, gzipped or not")
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    images, labels = mnist.load(args.mnist, "train", count=10_000)
    times = time_steps(args.variant, args.preset, args.steps, images, labels)
    median = statistics.median(times)
    result = {
        "variant": args.variant,
        "preset": args.preset,
        "threads": args.threads,
        "steps": args.steps,
        "batch_size": BATCH,
        "median_ms": round(median, 3),
        "images_per_second": round(BATCH / median * 1e3, 1),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
