"""Time PyTorch at the Rust program's workloads: the peers of `cargo xtask bench`. Prints one JSON object.

    python bench.py train --variant seed|careful --preset notebook|shallow|mnist-250k --threads N
    python bench.py eval --variant seed|careful --threads N
    python bench.py latency --variant seed|careful|traced --threads N
    python bench.py memory
    python bench.py timm-forward --batch-size N --threads N
    python bench.py timm-train --batch-size N --threads N

`seed` is the notebook's code: separate heads, default Adam. `careful` is the same model with one qkv product,
`scaled_dot_product_attention` and fused Adam; `traced` is that model frozen by `torch.jit`. Training: batch 64,
dropout 0.2 (none with `mnist-250k`), Adam 3e-4, float32, no augmentation. Images are in memory as float32 already; gathering, scaling and counting are not
timed, which favours PyTorch. `memory` times nothing: it trains and evaluates, and the caller measures its memory.
MNIST is read from `--mnist`, else from `mnist` in the folder VIT_DATA.
"""

import argparse
import json
import os
import platform
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import mnist
import shallow_model
import vit

BATCH = 64
RATE = 0.2
MNIST_250K = replace(vit.SHALLOW, patch=vit.Patch(4, 4), dim=64, depth=4, mlp_dim=256, pool="mean")
"""The model of configs/mnist-250k.toml, which has no dropout."""


class FusedAttention(vit.Attention):
    """`vit.Attention` with PyTorch's `scaled_dot_product_attention`."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        dropout = self.weight_dropout.p if self.training else 0.0
        return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, scale=self.scale)


def careful_model(preset: str) -> nn.Module:
    """The preset with the notebook's dropout, or `mnist-250k`, with fused attention."""
    dropout = vit.Dropout(attention=RATE, projection=RATE, mlp=RATE)
    config = replace(vit.PRESETS[preset], dropout=dropout) if preset in vit.PRESETS else MNIST_250K
    model = vit.VisionTransformer(config)
    for block in model.blocks:
        block.attn = FusedAttention(config)
    return model


def build(variant: str, preset: str) -> nn.Module:
    """A new model of this variant."""
    torch.manual_seed(0)
    if variant != "seed":
        return careful_model(preset)
    if preset not in vit.PRESETS:
        raise SystemExit(f"--variant seed: expected --preset notebook or shallow, got {preset}")
    return shallow_model.seed_style(preset)


def adam(variant: str, model: nn.Module) -> torch.optim.Optimizer:
    """The variant's optimiser."""
    return torch.optim.Adam(model.parameters(), lr=3e-4, fused=None if variant == "seed" else True)


def step(model: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor) -> None:
    """One step of training."""
    loss = F.cross_entropy(model(images), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def time_each(work: Callable[[], object], count: int, warm_up: int) -> list[float]:
    """Seconds of each of `count` calls, after some untimed ones."""
    times = []
    for _ in range(warm_up + count):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return times[warm_up:]


def quantiles(times: list[float], unit: str) -> dict[str, float]:
    """Median and deciles, under the Rust program's names."""
    scaled = [{"ms": 1e3, "us": 1e6}[unit] * seconds for seconds in times]
    tenths = statistics.quantiles(scaled, n=10, method="inclusive") if len(scaled) > 1 else scaled * 9
    figures = {"median": statistics.median(scaled), "p10": tenths[0], "p90": tenths[-1]}
    return {f"{name}_{unit}": round(value, 4) for name, value in figures.items()}


def train(args: argparse.Namespace) -> dict:
    """Steps on random batches of MNIST."""
    images, labels = mnist.load(args.mnist, "train", count=10_000)
    model = build(args.variant, args.preset).train()
    optimizer = adam(args.variant, model)
    times = []
    for _ in range(args.warmup + args.steps):
        batch = torch.randint(len(labels), (BATCH,))
        xs, ys = images[batch], labels[batch]
        times += time_each(lambda: step(model, optimizer, xs, ys), count=1, warm_up=0)
    figures = quantiles(times[args.warmup :], "ms")
    return {**figures, "images_per_second": BATCH / figures["median_ms"] * 1e3, "batch_size": BATCH}


@torch.inference_mode()
def evaluate(args: argparse.Namespace) -> dict:
    """Passes over MNIST's test images, at the best of several batch sizes."""
    images, labels = mnist.load(args.mnist, "test")
    model = build(args.variant, args.preset).eval()

    def correct(batch_size: int) -> int:
        batches = zip(images.split(batch_size), labels.split(batch_size))
        return sum(int((model(xs).argmax(1) == ys).sum()) for xs, ys in batches)

    results = []
    for batch_size in args.batch_sizes:
        times = time_each(lambda: correct(batch_size), count=args.rounds, warm_up=1)
        figures = quantiles(times, "ms")
        rate = len(labels) / figures["median_ms"] * 1e3
        results.append({**figures, "images_per_second": rate, "batch_size": batch_size})
    return max(results, key=lambda result: result["images_per_second"])


@torch.inference_mode()
def latency(args: argparse.Namespace) -> dict:
    """Passes of one image."""
    images = torch.rand(1, 1, 28, 28) * 2 - 1
    model = build(args.variant, args.preset).eval()
    if args.variant == "traced":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch.jit is deprecated, and still the fastest
            model = torch.jit.freeze(torch.jit.trace(model, images))
    times = time_each(lambda: model(images), args.iterations, warm_up=200)
    return {**quantiles(times, "us"), "batch_size": 1}


def memory(args: argparse.Namespace) -> dict:
    """Steps of the notebook's training and an evaluation, with MNIST in memory as bytes."""
    sets = {split: mnist.load_bytes(args.mnist, split) for split in ("train", "test")}
    model = build("seed", args.preset)
    optimizer = adam("seed", model)
    images, labels = sets["train"]
    model.train()
    for batch in torch.randperm(len(labels)).split(BATCH)[: args.steps]:
        step(model, optimizer, mnist.scale(images[batch]), labels[batch])
    images, labels = sets["test"]
    model.eval()
    with torch.inference_mode():
        batches = zip(images.split(100), labels.split(100))
        correct = sum(int((model(mnist.scale(xs)).argmax(1) == ys).sum()) for xs, ys in batches)
    return {"accuracy": correct / len(labels)}


def tiny() -> nn.Module:
    """ViT-Ti/16 at 224x224, equal to configs/vit-ti16-224.toml."""
    import timm

    torch.manual_seed(0)
    return timm.create_model("vit_tiny_patch16_224")


@torch.inference_mode()
def timm_forward(args: argparse.Namespace) -> dict:
    """Passes of timm's model."""
    model = tiny().eval()
    images = torch.rand(args.batch_size, 3, 224, 224) * 2 - 1
    times = time_each(lambda: model(images), args.iterations, warm_up=2)
    return {**quantiles(times, "us"), "batch_size": args.batch_size}


def timm_train(args: argparse.Namespace) -> dict:
    """Steps of timm's model on one batch."""
    model = tiny().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05, fused=True)
    images = torch.rand(args.batch_size, 3, 224, 224) * 2 - 1
    labels = torch.randint(1000, (args.batch_size,))
    times = time_each(lambda: step(model, optimizer, images, labels), args.steps, warm_up=2)
    return {**quantiles(times, "ms"), "batch_size": args.batch_size}


def versions() -> dict[str, str]:
    """Versions and device."""
    return {"python": platform.python_version(), "torch": torch.__version__, "timm": metadata.version("timm")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    workloads = parser.add_subparsers(required=True, metavar="WORKLOAD")

    def workload(name: str, run: Callable[[argparse.Namespace], dict], **counts: int) -> argparse.ArgumentParser:
        sub = workloads.add_parser(name, help=run.__doc__)
        sub.set_defaults(run=run, workload=name)
        for flag, default in {"threads": 1, **counts}.items():
            sub.add_argument(f"--{flag.replace('_', '-')}", type=int, default=default)
        return sub

    def of_preset(sub: argparse.ArgumentParser, *variants: str, also: list[str] | None = None) -> None:
        sub.add_argument("--preset", choices=[*vit.PRESETS, *(also or [])], default="notebook")
        if variants:
            sub.add_argument("--variant", choices=variants, required=True)
        data = Path(os.environ.get("VIT_DATA", "."), "mnist")
        sub.add_argument("--mnist", type=Path, default=data, help="folder of the four IDX files, gzipped or not")

    of_preset(workload("train", train, steps=150, warmup=20), "seed", "careful", also=["mnist-250k"])
    of_eval = workload("eval", evaluate, rounds=5)
    of_eval.add_argument("--batch-sizes", type=int, nargs="+", default=[BATCH], help="the best counts")
    of_preset(of_eval, "seed", "careful")
    of_preset(workload("latency", latency, iterations=1000), "seed", "careful", "traced")
    of_preset(workload("memory", memory, steps=200))
    workload("timm-forward", timm_forward, batch_size=1, iterations=20)
    workload("timm-train", timm_train, batch_size=8, steps=5)

    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    figures = args.run(args)
    settings = {key: value for key, value in vars(args).items() if key not in ("run", "mnist")}
    print(json.dumps({**settings, **figures, **versions()}))


if __name__ == "__main__":
    main()
