"""Time `vit` on two ranks beside one process and beside PyTorch's DistributedDataParallel, and fit a model of many ranks to it.

    cargo build --workspace --features vit/mpi --bin vit --example network
    python tests/reference/bench_ranks.py --target target/debug --json FILE

Rounds go through all programs in turn, and the median of rounds counts. Prints Markdown. PyTorch is this Python's; without it,
its row is left out.
"""

import argparse
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
SHALLOW = ["--preset", "shallow", "--steps", "600", "--warmup", "50"]
TINY = ["--config", str(HERE.parent.parent / "configs/vit-ti16-224.toml"), "--batch-size", "16", "--steps", "6", "--warmup", "1"]
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
    """Latency and time a word of each collective, from two messages of different lengths between two ranks."""

    def __init__(self, rounds):
        def at(parameters, what):
            return 1e-3 * median_of(rounds, str(parameters), what)

        self.latency, self.word = {}, {}
        for what in ["exchange", "gather"]:
            short, long = at(1, what), at(1_000_000, what)
            self.latency[what] = short
            # Two ranks: half of the parameters cross, each way.
            self.word[what] = (long - short) / 500_000
        self.broadcast = at(1, "broadcast")

    def step(self, parameters, ranks):
        """Milliseconds: with each other rank one message, in turn; then a broadcast along a tree."""
        if ranks == 1:
            return 0.0
        words = parameters * (ranks - 1) / ranks
        sums = (self.latency[what] * (ranks - 1) + self.word[what] * words for what in self.latency)
        return sum(sums) + self.broadcast * math.ceil(math.log2(ranks))


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
    print(f"latency of exchange {1e3 * net.latency['exchange']:.0f} us, of gather {1e3 * net.latency['gather']:.0f} us, ", end="")
    rate = {what: 4e-6 / word for what, word in net.word.items()}
    print(f"broadcast {1e3 * net.broadcast:.0f} us; {rate['exchange']:.1f} and {rate['gather']:.1f} GB/s\n")
    # A step takes so much, and so much an image.
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
    parser.add_argument("--rounds", type=int, default=5)
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
