"""Write tests/fixtures/finetune.json and finetune.safetensors: twenty losses of fine-tuning timm models.

    python finetune_fixtures.py VIT [--out DIR]

VIT is the `vit` binary: the new head's random initial values are read from a run without steps. The initial model is timm's,
for colour pictures in 7 classes; it is trained on the grey pictures in 10 classes that `tests/idx_folder.rs` makes.
"""

import argparse
import json
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from timm.layers import resample_abs_pos_embed
from timm.models.vision_transformer import VisionTransformer
from timm.optim import param_groups_layer_decay
from torch import Tensor

from make_fixtures import FIXTURES

SIZE, PATCH, DIM, DEPTH, HEADS = 28, 7, 32, 3, 2
BATCH, STEPS, CLASSES = 8, 20, 10
LR, DECAY = 1e-3, 0.05

CONFIG = {
    "image": {"height": SIZE, "width": SIZE, "channels": 3},
    "patch": {"height": PATCH, "width": PATCH},
    "dim": DIM,
    "depth": DEPTH,
    "heads": HEADS,
    "mlp_dim": 2 * DIM,
    "classes": 7,
    "position": "learned",
    "score_scale": "head_dim",
    "output": "logits",
    "pool": "cls",
    "activation": "gelu",
    "qkv_bias": True,
    "dropout": {"embedding": 0.0, "attention": 0.0, "projection": 0.0, "mlp": 0.0},
    "drop_path": 0.0,
    "layer_norm_eps": 1e-6,
}

# The flags of `vit train`, the size of the pictures, what is frozen and the layer decay.
CASES = [
    ("new-head", "", SIZE, lambda name: False, 1.0),
    ("frozen-trunk", "--freeze all", SIZE, lambda name: not name.startswith("head."), 1.0),
    (
        "frozen-block",
        "--freeze 1",
        SIZE,
        lambda name: not name.startswith(("blocks.1.", "blocks.2.", "norm.", "head.")),
        1.0,
    ),
    ("layer-decay", "--layer-decay 0.75", SIZE, lambda name: False, 0.75),
    ("other-size", "", 42, lambda name: False, 1.0),
]


def model(size: int, channels: int, classes: int) -> VisionTransformer:
    return VisionTransformer(
        img_size=size,
        patch_size=PATCH,
        in_chans=channels,
        num_classes=classes,
        embed_dim=DIM,
        depth=DEPTH,
        num_heads=HEADS,
        mlp_ratio=2.0,
    )


def idx_folder(size: int, count: int) -> tuple[Tensor, Tensor]:
    """The pictures and labels that `IdxFolder` writes."""
    at = np.arange(count * size * size, dtype=np.uint32)
    pixels = (at * 37 // 11).astype(np.uint8).reshape(count, 1, size, size)
    images = (torch.from_numpy(pixels.astype(np.float32)) / 255 - 0.5) / 0.5
    return images, torch.arange(count) % 10


def write_idx(folder: Path, size: int) -> None:
    folder.mkdir()
    for name, count in [("train", BATCH * STEPS), ("t10k", 20)]:
        at = np.arange(count * size * size, dtype=np.uint32)
        images = (at * 37 // 11).astype(np.uint8).tobytes()
        header = np.array([0x803, count, size, size], dtype=">u4").tobytes()
        (folder / f"{name}-images-idx3-ubyte").write_bytes(header + images)
        labels = (np.arange(count) % 10).astype(np.uint8).tobytes()
        header = np.array([0x801, count], dtype=">u4").tobytes()
        (folder / f"{name}-labels-idx1-ubyte").write_bytes(header + labels)


def new_head(vit: str, init: Path) -> dict[str, Tensor]:
    """The initial head of a run."""
    with tempfile.TemporaryDirectory() as folder:
        write_idx(Path(folder) / "pictures", SIZE)
        words = "train --dataset pictures --lr 0 --max-steps 1 --batch-size 8 --run-dir run --init"
        subprocess.run([vit, *words.split(), init], cwd=folder, check=True)
        weights = load_file(Path(folder) / "run/model.safetensors")
    return {name: weights[f"head.{name}"] for name in ["weight", "bias"]}


def losses(state: dict[str, Tensor], head: dict[str, Tensor], case: tuple) -> list[float]:
    _, _, size, is_frozen, layer_decay = case
    tuned = model(size, 1, CLASSES)
    state = {name: value for name, value in state.items() if not name.startswith("head.")}
    state["patch_embed.proj.weight"] = state["patch_embed.proj.weight"].sum(1, keepdim=True)
    grid = size // PATCH
    state["pos_embed"] = resample_abs_pos_embed(
        state["pos_embed"], [grid, grid], num_prefix_tokens=1
    )
    state |= {f"head.{name}": value for name, value in head.items()}
    tuned.load_state_dict(state)
    for name, parameter in tuned.named_parameters():
        parameter.requires_grad_(not is_frozen(name))
    groups = param_groups_layer_decay(
        tuned,
        weight_decay=DECAY,
        no_weight_decay_list=tuned.no_weight_decay(),
        layer_decay=layer_decay,
    )
    # timm's own scheduler would scale the rate.
    for group in groups:
        group["lr"] = LR * group["lr_scale"]
    optimizer = torch.optim.AdamW(groups, lr=LR)
    images, labels = idx_folder(size, BATCH * STEPS)
    found = []
    for step in range(STEPS):
        batch = slice(step * BATCH, (step + 1) * BATCH)
        loss = F.cross_entropy(tuned(images[batch]), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("vit")
    parser.add_argument("--out", type=Path, default=FIXTURES)
    arguments = parser.parse_args()
    torch.manual_seed(20)
    torch.set_num_threads(1)
    pretrained = model(SIZE, 3, 7)
    with torch.no_grad():
        for parameter in pretrained.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    state = {name: value.detach().clone() for name, value in pretrained.state_dict().items()}
    init = (arguments.out / "finetune.safetensors").absolute()
    save_file(state, init, metadata={"vit_config": json.dumps(CONFIG)})
    head = new_head(str(Path(arguments.vit).absolute()), init)
    cases = [
        {"name": case[0], "flags": case[1], "size": case[2], "losses": losses(state, head, case)}
        for case in CASES
    ]
    head = {name: value.tolist() for name, value in head.items()}
    (arguments.out / "finetune.json").write_text(json.dumps({"head": head, "cases": cases}))


if __name__ == "__main__":
    main()
