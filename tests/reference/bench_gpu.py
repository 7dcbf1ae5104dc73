"""Time the seed's recipe in PyTorch on an NVIDIA GPU, in several ways. Prints a JSON line for each.

    python bench_gpu.py [--preset shallow] [--batch-sizes 64 512 4096] [--steps 300] [--ways WAY...]

MNIST is on the GPU as float32, with its labels. A step gathers its batch in shuffled order, trains, and accumulates
loss and correct answers there, like the Rust program. Nothing is read back before the end. Float32 products,
no tf32. The ways:

    eager           the seed's code, default Adam
    eager-careful   one qkv product, fused attention, fused Adam
    compile         eager-careful through `torch.compile(mode="reduce-overhead")`, which uses CUDA graphs
    graph           a step of eager-careful, optimiser included, as one CUDA graph
    compile-graph   the same for the compiled model

Reports the median over rounds of `steps` steps; each synchronised round is timed by the clock.
MNIST is read from `--mnist`, else from `mnist` in the folder VIT_DATA; `--noise` uses noise of its size.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import bench
import mnist

DEVICE = "cuda"


class Training:
    """The model, with a step's inputs and sums, all on the GPU."""

    def __init__(self, args: argparse.Namespace, way: str, batch: int) -> None:
        images, labels = noise() if args.noise else mnist.load(args.mnist, "train")
        self.images, self.labels = images.to(DEVICE), labels.to(DEVICE)
        self.batch = batch
        variant = "seed" if way == "eager" else "careful"
        self.model: nn.Module = bench.build(variant, args.preset).to(DEVICE).train()
        settings = {} if variant == "seed" else {"fused": True, "capturable": "graph" in way}
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=3e-4, **settings)
        self.forward: Callable[[Tensor], Tensor] = self.model
        if way == "compile":
            self.forward = torch.compile(self.model, mode="reduce-overhead")
        if way == "compile-graph":
            self.forward = torch.compile(self.model)
        self.loss_sum = torch.zeros((), device=DEVICE)
        self.correct = torch.zeros((), device=DEVICE, dtype=torch.int64)

    def step(self, indices: Tensor) -> None:
        """One step on the images of these indices."""
        xs, ys = self.images[indices], self.labels[indices]
        output = self.forward(xs)
        loss = F.cross_entropy(output, ys)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.loss_sum += loss.detach() * len(ys)
        self.correct += (output.detach().argmax(1) == ys).sum()

    def orders(self, steps: int) -> Tensor:
        """The indices of `count` steps."""
        order = torch.cat([torch.randperm(len(self.labels)) for _ in range(1 + steps * self.batch // len(self.labels))])
        return order[: steps * self.batch].view(steps, self.batch).to(DEVICE)

    def recorded(self) -> Callable[[Tensor], None]:
        """A step as one CUDA graph."""
        indices = self.orders(1)[0].clone()
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(5):
                self.step(indices)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.step(indices)

        def replay(new: Tensor) -> None:
            indices.copy_(new)
            graph.replay()

        return replay


def noise() -> tuple[Tensor, Tensor]:
    """Images and labels of MNIST's size."""
    return torch.rand(60_000, 1, 28, 28) * 2 - 1, torch.randint(10, (60_000,))


def images_per_second(args: argparse.Namespace, way: str, batch: int) -> float:
    """The median over some rounds."""
    training = Training(args, way, batch)
    step = training.recorded() if "graph" in way else training.step
    steps = max(20, args.steps * 64 // batch)
    for indices in training.orders(20):
        step(indices)
    rates = []
    for _ in range(args.rounds):
        orders = training.orders(steps)
        torch.cuda.synchronize()
        begun = time.perf_counter()
        for indices in orders:
            step(indices)
        torch.cuda.synchronize()
        rates.append(steps * batch / (time.perf_counter() - begun))
    return statistics.median(rates)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ways = ["eager", "eager-careful", "compile", "graph", "compile-graph"]
    parser.add_argument("--preset", choices=["notebook", "shallow"], default="shallow")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[64, 512, 4096])
    parser.add_argument("--ways", nargs="+", choices=ways, default=ways)
    parser.add_argument("--steps", type=int, default=300, help="steps of a round at batch size 64; larger batches take fewer")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--noise", action="store_true", help="random images in place of MNIST")
    data = Path(os.environ.get("VIT_DATA", "."), "mnist")
    parser.add_argument("--mnist", type=Path, default=data, help="folder of the four IDX files, gzipped or not")
    args = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = False
    for batch in args.batch_sizes:
        for way in args.ways:
            torch.compiler.reset()
            figures = {"way": way, "batch_size": batch, "preset": args.preset}
            try:
                figures["images_per_second"] = round(images_per_second(args, way, batch))
            except Exception as error:  # a way that fails on this machine is reported too
                figures["error"] = f"{type(error).__name__}: {error}".splitlines()[0][:200]
            device = torch.cuda.get_device_name()
            print(json.dumps({**figures, "device": device, "torch": torch.__version__}), flush=True)


if __name__ == "__main__":
    main()
