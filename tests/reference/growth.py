"""Measure how the training step's time grows with batch size, tokens, width and depth.

    python tests/reference/growth.py --vit target/debug/vit -o docs/growth.svg

Each point is the median step of `vit bench train` on noise; the other sizes equal the preset `shallow`. Each round
measures all points, and the median over rounds counts. Prints the figures as a Markdown table.
"""

import argparse
import json
import statistics
import subprocess
import tempfile
from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

SHALLOW = {"batch": 64, "patch": 7, "dim": 32, "depth": 3}
SIDE = 28
SWEEPS = {
    "batch": ("images a batch", "batch", [8, 16, 32, 64, 128, 256, 512]),
    "tokens": ("tokens an image", "patch", [28, 14, 7, 4, 2]),
    "width": ("width", "dim", [8, 16, 32, 64, 128, 256]),
    "depth": ("blocks", "depth", [1, 2, 3, 6, 12]),
}


def config(size):
    """The TOML of `shallow` in another size; heads stay 8 wide."""
    side = f"{{ height = {size['patch']}, width = {size['patch']} }}"
    return (
        f"[model]\npatch = {side}\ndim = {size['dim']}\nheads = {size['dim'] // 8}\n"
        f"mlp_dim = {4 * size['dim']}\ndepth = {size['depth']}\n"
    )


def step_ms(vit, size, threads, folder):
    path = Path(folder) / "model.toml"
    path.write_text(config(size))
    command = [vit, "bench", "train", "--config", path, "--batch-size", str(size["batch"])]
    command += ["--threads", str(threads), "--steps", "60", "--warmup", "15", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)["median_ms"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vit", required=True, help="the program, built as `cargo xtask train` does")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("-o", "--output", required=True, help="the SVG to write")
    args = parser.parse_args()

    times = {}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(args.rounds):
            for sweep, (_, field, values) in SWEEPS.items():
                for value in values:
                    ms = step_ms(args.vit, SHALLOW | {field: value}, args.threads, folder)
                    times.setdefault((sweep, value), []).append(ms)

    plt.rcParams |= {"svg.hashsalt": "growth", "font.family": "sans-serif", "font.size": 9}
    figure, axes = plt.subplots(1, len(SWEEPS), figsize=(11, 2.9), sharey=True, layout="constrained")
    for axis, (sweep, (label, _, values)) in zip(axes, SWEEPS.items()):
        xs = [(SIDE // value) ** 2 if sweep == "tokens" else value for value in values]
        ys = [statistics.median(times[sweep, value]) for value in values]
        axis.loglog(xs, ys, "o-", color="#2563eb", markersize=4)
        # Proportional cost, through the largest point.
        axis.loglog(xs, [ys[-1] * x / xs[-1] for x in xs], "--", color="#9ca3af", linewidth=1)
        axis.set_xlabel(label)
        axis.set_xticks(xs, [str(x) for x in xs])
        axis.minorticks_off()
        axis.grid(color="#e5e7eb", linewidth=0.6)
        axis.spines[["top", "right"]].set_visible(False)
        print(f"| {label} | " + " | ".join(str(x) for x in xs) + " |")
        print("|---|" + "---|" * len(xs))
        print("| ms a step | " + " | ".join(f"{y:.2f}" for y in ys) + " |\n")
    axes[0].set_ylabel("ms a training step")
    ticks = [0.1, 0.3, 1, 3, 10, 30, 100]
    axes[0].set_yticks(ticks, [str(tick) for tick in ticks])
    figure.savefig(args.output, metadata={"Date": None})


if __name__ == "__main__":
    main()
