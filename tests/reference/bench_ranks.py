"""Compare `vit` on two ranks with one process and with PyTorch's DistributedDataParallel, and extrapolate to many ranks.

    cargo build --workspace --features vit/mpi --bin vit --example network
    python tests/reference/bench_ranks.py --target target/debug --json FILE

Rounds go through all programs in turn, and the median of rounds counts. Prints Markdown. PyTorch is this Python's; without it,
its row is left out.
"""

import argparse
import bisect
import importlib.util
import json
import math
import os
import platform
import re
import statistics
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
# Ranks may share cores with each other, and root may launch them.
LAUNCH = ["mpirun", "--allow-run-as-root", "--bind-to", "none", "-n", "2"]
# Between machines there is no shared memory.
TCP = ["--mca", "pml", "ob1", "--mca", "btl", "self,tcp"]
SHALLOW = ["--preset", "shallow", "--steps", "300", "--warmup", "50"]
TINY = ["--config", str(HERE.parent.parent / "configs/vit-ti16-224.toml"), "--batch-size", "16", "--steps", "3", "--warmup", "1"]
BASE = ["--preset", "vit-b16", "--steps", "2", "--warmup", "1"]
PARAMETERS = {"shallow": 40_330, "ViT-B/16": 86_567_656}


def run(command, environment=None):
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | (environment or {}), check=False)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))} failed:\n{done.stderr}")
    return done.stdout


def train(launch, target, words, threads):
    command = [*launch, target / "vit", "bench", "train", *words, "--threads", str(threads), "--json", "-q"]
    return json.loads(run(command).splitlines()[-1])


def ddp(variant):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command += [HERE / "bench_ddp.py", "--variant", variant]
    return json.loads(run(command, {"OMP_NUM_THREADS": "1"}).splitlines()[-1])


def network(target):
    """Microseconds of each collective, by the number of parameters."""
    lines = run([*LAUNCH, *TCP, target / "examples/network"]).splitlines()
    numbers = [[float(number) for number in re.findall(r"[\d.]+", line)] for line in lines]
    return {str(int(line[0])): dict(zip(["exchange", "gather", "broadcast"], line[1:])) for line in numbers}


def programs(target):
    """What a round measures, in order."""
    found = {
        "shallow, 1 process": lambda: train([], target, SHALLOW, 2),
        "shallow, 2 ranks": lambda: train(LAUNCH, target, SHALLOW, 1),
        "shallow, 2 ranks, TCP": lambda: train([*LAUNCH, *TCP], target, SHALLOW, 1),
        "shallow, 1 thread": lambda: train([], target, SHALLOW, 1),
        "shallow, 1 thread, 16 images": lambda: train([], target, [*SHALLOW, "--batch-size", "16"], 1),
        "ViT-Ti/16, 1 process": lambda: train([], target, TINY, 2),
        "ViT-Ti/16, 2 ranks": lambda: train(LAUNCH, target, TINY, 1),
        "network": lambda: network(target),
    }
    if importlib.util.find_spec("torch"):
        found |= {f"DDP, {variant}": lambda variant=variant: ddp(variant) for variant in ["seed", "careful"]}
    return found


def median_of(rounds, *keys):
    def value(of):
        for key in keys:
            of = of[key]
        return of

    return statistics.median(value(of) for of in rounds)


class Network:
    """Milliseconds of each collective between two ranks, by the parameters that they share."""

    def __init__(self, rounds):
        self.sizes = sorted(int(size) for size in rounds[0])
        self.times = {
            what: [1e-3 * median_of(rounds, str(size), what) for size in self.sizes] for what in ["exchange", "gather", "broadcast"]
        }

    def at(self, what, parameters):
        """On the line through the two nearest sizes."""
        times = self.times[what]
        above = min(max(bisect.bisect(self.sizes, parameters), 1), len(self.sizes) - 1)
        share = (parameters - self.sizes[above - 1]) / (self.sizes[above] - self.sizes[above - 1])
        return times[above - 1] + share * (times[above] - times[above - 1])

    def step(self, parameters, ranks):
        """Each rank sends every other rank a message of its slice, one after another; a broadcast is a tree."""
        if ranks == 1:
            return 0.0
        messages = (ranks - 1) * sum(self.at(what, 2 * parameters / ranks) for what in ["exchange", "gather"])
        return messages + self.times["broadcast"][0] * math.ceil(math.log2(ranks))


def processor():
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()}, {os.cpu_count()} cores"


def report(rounds, base):
    def of(name, key="median_ms"):
        return median_of(rounds, name, key)

    print(f"{processor()}; {len(rounds)} rounds\n\n| | ms a step | | |\n|---|---:|---:|---|")
    for model, reach in [("shallow", 0.85), ("ViT-Ti/16", 0.95)]:
        alone, ranks = of(f"{model}, 1 process"), of(f"{model}, 2 ranks")
        print(f"| {model}, 1 process of 2 threads | {alone:.3f} | | |")
        print(f"| {model}, 2 ranks of 1 thread | {ranks:.3f} | {alone / ranks:.2f}x | reach {reach}x |")
    for variant in ["seed", "careful"]:
        if f"DDP, {variant}" in rounds[0]:
            peer, ranks = of(f"DDP, {variant}"), of("shallow, 2 ranks")
            print(f"| PyTorch DDP, {variant} | {peer:.3f} | ours {peer / ranks:.1f}x | reach 4x |")
    tcp, waits = of("shallow, 2 ranks, TCP"), of("shallow, 2 ranks, TCP", "communication_ms")
    print(f"| shallow, 2 ranks over TCP | {tcp:.3f} | {waits / tcp:.1%} waiting | reach 15 % |\n")

    net = Network([a["network"] for a in rounds])
    print("| parameters | exchange, us | gather, us |\n|---:|---:|---:|")
    for at, size in enumerate(net.sizes):
        print(f"| {size:,} | {1e3 * net.times['exchange'][at]:.0f} | {1e3 * net.times['gather'][at]:.0f} |")
    print(f"\nbroadcast: {1e3 * net.times['broadcast'][0]:.0f} us\n")
    # Cost model: a constant per step plus a cost per image.
    one, few = of("shallow, 1 thread"), of("shallow, 1 thread, 16 images")
    image = (one - few) / 48
    costs = {"shallow": (max(one - 64 * image, 0), image), "ViT-B/16": (max(2 * base[0] - base[1], 0), base[1] - base[0])}
    print("| model, batch | ranks | computing, ms | communication, ms | images/s | efficiency |\n|---|---:|---:|---:|---:|---:|")
    for model, batch, ranks in [
        ("shallow", 64, 1), ("shallow", 64, 2), ("shallow", 64, 8), ("shallow", 64, 64), ("shallow", 4096, 8), ("shallow", 4096, 64),
        ("shallow", 4096, 512), ("ViT-B/16", 4096, 1), ("ViT-B/16", 4096, 8), ("ViT-B/16", 4096, 64), ("ViT-B/16", 4096, 512),
    ]:  # fmt: skip
        fixed, image = costs[model]
        computing, waiting = fixed + image * batch / ranks, net.step(PARAMETERS[model], ranks)
        step = computing + waiting
        share = (fixed + image * batch) / step / ranks
        print(f"| {model}, {batch} | {ranks} | {computing:.2f} | {waiting:.2f} | {1e3 * batch / step:.0f} | {share:.0%} |")
    fixed, image = costs["shallow"]
    model = fixed + 32 * image + net.step(PARAMETERS["shallow"], 2)
    print(f"\nmeasured on 2 ranks over TCP: {tcp:.3f} ms, the model says {model:.3f} ({model / tcp - 1:+.0%})")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--target", required=True, type=Path, help="the folder of the built programs")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--json", type=Path, help="write every measurement to this file")
    args = parser.parse_args()
    target = args.target.resolve()
    rounds = [{name: measure() for name, measure in programs(target).items()} for _ in range(args.rounds)]
    base = [train([], target, [*BASE, "--batch-size", str(batch)], 1)["median_ms"] for batch in [1, 2]]
    if args.json:
        args.json.write_text(json.dumps({"processor": processor(), "rounds": rounds, "vit_b16_ms": base}, indent=1) + "\n")
    report(rounds, base)


if __name__ == "__main__":
    main()
