"""Time a step of `shallow` with PyTorch's DistributedDataParallel: the peer of `vit bench train` on two ranks. Rank 0 prints JSON.

    OMP_NUM_THREADS=1 torchrun --nproc-per-node 2 bench_ddp.py --variant seed|careful

The global batch of 64 is divided among the ranks; gloo, Adam 3e-4, dropout 0.2, float32, on noise.
"""

import argparse
import json
import statistics
import time

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.nn.parallel import DistributedDataParallel

import bench


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--variant", choices=["seed", "careful"], required=True)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--warmup", type=int, default=50)
    args = parser.parse_args()
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank, ranks = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(0)
    model = DistributedDataParallel(bench.build(args.variant, "shallow").train())
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-4, fused=args.variant == "careful")
    batch = bench.BATCH // ranks
    images, labels = torch.randn(16, batch, 1, 28, 28), torch.randint(10, (16, batch))
    times = []
    for step in range(args.warmup + args.steps):
        begun = time.perf_counter()
        optimizer.zero_grad()
        F.cross_entropy(model(images[step % 16]), labels[step % 16]).backward()
        optimizer.step()
        if step >= args.warmup:
            times.append(time.perf_counter() - begun)
    if rank == 0:
        median = statistics.median(times)
        print(json.dumps({"variant": args.variant, "ranks": ranks, "median_ms": median * 1e3, "images_per_second": bench.BATCH / median}))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
