"""Compare the throughput of torchvision's pipeline and of vit-pictures in pictures/s: medians and their ratio.

    cargo build -p vit-pictures --example throughput
    python bench_pictures.py target/debug/examples/throughput [--rounds 7] [--vit target/debug/vit]

Both make batches of 64 normalised views of 224 px from 512 JPEG files of 500x375 px, on two cores: a DataLoader with two
persistent workers, and two threads. Files are in memory after the first round. With `--vit`, ViT-Ti/16 trains on them
for three epochs: the share of each that it waits for batches.
"""

import argparse
import json
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import torch
from torch.utils.data import DataLoader
from torchvision import transforms as T
from torchvision.datasets import ImageFolder

from photo import photo

COUNT = 512
END = [T.ToTensor(), T.Normalize([0.5] * 3, [0.25] * 3)]
PIPELINES = {
    "eval": T.Compose([T.Resize(256), T.CenterCrop(224), *END]),
    "train": T.Compose(
        [T.RandomResizedCrop(224), T.RandomHorizontalFlip(), T.ColorJitter(0.4, 0.4, 0.4, 0.1), *END]
    ),
}


def epoch(loader):
    start = time.perf_counter()
    count = sum(len(labels) for _, labels in loader)
    return count / (time.perf_counter() - start)


def waiting(vit, pictures, run):
    """The share of each epoch in which training of ViT-Ti/16, in batches of 8, waits for the next batch."""
    words = ["train", "--dataset", pictures, "--preset", "vit-ti16", "--batch-size", "8", "--epochs", "3", "--run-dir", run]
    subprocess.run([vit, *words, "--quiet"], check=True, capture_output=True)
    records = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [record["waiting_seconds"] / record["seconds"] for record in records if "waiting_seconds" in record]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("throughput", type=Path)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--vit", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        pictures = Path(folder) / "set" / "class"
        pictures.mkdir(parents=True)
        for seed in range(COUNT):
            photo(seed).save(pictures / f"{seed:04}.jpg", quality=88)
        size = sum(path.stat().st_size for path in pictures.iterdir()) / COUNT
        print(f"{COUNT} files of {size / 1000:.0f} kB")
        for name, pipeline in PIPELINES.items():
            loader = DataLoader(
                ImageFolder(pictures.parent, pipeline), 64, num_workers=2, persistent_workers=True
            )
            epoch(loader)
            words = [args.throughput, name, pictures, *([Path(folder) / "cache"] if name == "train" else [])]
            theirs, ours = [], []
            for _ in range(args.rounds):
                theirs.append(epoch(loader))
                said = subprocess.run(words, check=True, capture_output=True, text=True).stdout
                ours.append(float(said.split("pictures_per_second ")[1]))
            median = statistics.median(theirs), statistics.median(ours)
            print(f"{name}: torchvision {median[0]:.0f}/s, ours {median[1]:.0f}/s, {median[1] / median[0]:.2f} x")
        if args.vit:
            # Two classes of the same pictures.
            (pictures.parent / "same").symlink_to(pictures)
            shares = waiting(args.vit, pictures.parent, Path(folder) / "run")
            print("ViT-Ti/16 waits for", ", ".join(f"{100 * share:.2f} %" for share in shares), "of its epochs")


if __name__ == "__main__":
    main()
