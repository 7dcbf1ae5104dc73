"""Load an exported `notebook`-layout model into the notebook's own class and score it on MNIST's test images.

    python check_export.py MODEL.safetensors --mnist DIR

Prints {"accuracy": ..., "correct": ...} over all 10,000 images. Loading is strict: a missing name, an
unexpected name or another shape is an error.
"""

import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import load_file

import mnist
import seed_model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--mnist", type=Path, required=True, help="folder of the four IDX files, gzipped or not")
    args = parser.parse_args()

    model = seed_model.VisionTransformer(49, seed_model.n_embd)
    model.load_state_dict(load_file(args.model), strict=True)
    images, labels = mnist.load(args.mnist, "test")
    model.eval()
    with torch.no_grad():
        correct = int((model(images).argmax(dim=1) == labels).sum())
    print(json.dumps({"accuracy": correct / len(labels), "correct": correct}))


if __name__ == "__main__":
    main()
