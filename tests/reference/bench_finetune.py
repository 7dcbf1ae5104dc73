"""Compare fine-tuning a ViT-Ti/16 from JPEG files by `vit train` and by timm's loop: seconds, medians and their ratio.

    cargo build -p vit
    python bench_finetune.py target/debug/vit [--rounds 3] [--pictures 256]

Both start from the same random weights, with the same settings: batch size 8, AdamW, label smoothing, 224 px, two threads.
"whole" trains everything for two epochs with random resized crops and flips. "head" trains only the head for twenty epochs
without augmentation; PyTorch computes the trunk's features again in each. The time of `vit` is for the whole command:
starting, reading the weights, building the picture cache, training, and writing the report. The time of timm's loop is for
its epochs only; its DataLoader has two persistent workers.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import timm
import torch
from timm.models import save_for_hf
from torch.utils.data import DataLoader
from torchvision import transforms as T
from torchvision.datasets import ImageFolder

from photo import photo

SIZE, BATCH, CLASSES = 224, 8, 4
MODEL = "vit_tiny_patch16_224"
END = [T.ToTensor(), T.Normalize([0.5] * 3, [0.5] * 3)]
TRAIN = T.Compose([T.RandomResizedCrop(SIZE), T.RandomHorizontalFlip(), *END])
VIEW = T.Compose([T.Resize(SIZE), T.CenterCrop(SIZE), *END])
CASES = {
    "whole": (2, ["--augment-crop-scale", "0.08", "--augment-flip", "0.5"]),
    "head": (20, ["--freeze", "all", "--augment-crop-scale", "0", "--augment-flip", "0"]),
}


def theirs(pictures, model, head_only, epochs):
    """The seconds of the epochs of timm's loop."""
    torch.set_num_threads(2)
    model.train()
    if head_only:
        model.requires_grad_(False)
        model.head.requires_grad_(True)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4, weight_decay=0.05, fused=True)
    loss = torch.nn.CrossEntropyLoss(label_smoothing=0.1)
    folder = ImageFolder(pictures / "train", VIEW if head_only else TRAIN)
    loader = DataLoader(folder, BATCH, shuffle=True, drop_last=True, num_workers=2, persistent_workers=True)
    start = time.perf_counter()
    for _ in range(epochs):
        for images, labels in loader:
            optimizer.zero_grad()
            loss(model(images), labels).backward()
            optimizer.step()
    return time.perf_counter() - start


def ours(vit, pictures, model, scratch, epochs, flags):
    """The seconds of the whole command, with an empty cache."""
    run, data = scratch / "run", scratch / "data"
    for folder in run, data:
        shutil.rmtree(folder, ignore_errors=True)
    words = [vit, "train", "--init", model, "--new-head", "--dataset", pictures, "--image-size", SIZE, "--batch-size", BATCH]
    words += ["--lr", "1e-4", "--weight-decay", "0.05", "--label-smoothing", "0.1"]
    words += ["--epochs", epochs, "--threads", 2, "--run-dir", run, *flags]
    start = time.perf_counter()
    env = {**os.environ, "VIT_DATA": str(data)}
    subprocess.run([str(word) for word in words], check=True, capture_output=True, env=env)
    return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("vit", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pictures", type=int, default=256)
    parser.add_argument("--only", choices=CASES)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        scratch = Path(scratch)
        for seed in range(args.pictures + CLASSES):
            part = "train" if seed < args.pictures else "test"
            folder = scratch / "pictures" / part / f"class-{seed % CLASSES}"
            folder.mkdir(parents=True, exist_ok=True)
            photo(seed).save(folder / f"{seed:04}.jpg", quality=88)
        torch.manual_seed(0)
        save_for_hf(timm.create_model(MODEL, num_classes=CLASSES), scratch / "model", safe_serialization=True)
        for name, (epochs, flags) in CASES.items():
            if args.only not in (None, name):
                continue
            times = [], []
            for _ in range(args.rounds):
                torch.manual_seed(0)
                model = timm.create_model(MODEL, num_classes=CLASSES)
                times[0].append(theirs(scratch / "pictures", model, name == "head", epochs))
                times[1].append(ours(args.vit, scratch / "pictures", scratch / "model", scratch, epochs, flags))
            timm_s, vit_s = map(statistics.median, times)
            print(f"{name}, {epochs} epochs: timm {timm_s:.1f} s, vit {vit_s:.1f} s, {timm_s / vit_s:.2f} x", flush=True)


if __name__ == "__main__":
    main()
