"""From the `notebook` parameter layout (`seed_model`'s state_dict) to the native one (`vit`'s names)."""

import torch
from torch import Tensor

from vit import Config

State = dict[str, Tensor]


def native_from_notebook(notebook: State, config: Config) -> State:
    """Rename, give patch weights their four axes, and stack the heads' q, k and v into one matrix."""
    patch_shape = (config.dim, config.image.channels, config.patch.height, config.patch.width)
    native = {
        "patch_embed.proj.weight": notebook["encoder.weight"].reshape(patch_shape),
        "patch_embed.proj.bias": notebook["encoder.bias"],
    }
    if config.position == "learned":
        native["pos_embed"] = notebook["pos_embedding"]
    else:
        native["pos_embed.proj.weight"] = notebook["pos_embedding.weight"].reshape(patch_shape)
        native["pos_embed.proj.bias"] = notebook["pos_embedding.bias"]
    for block in range(config.depth):
        native |= block_from_notebook(notebook, f"blocks.{block}", config.heads)
    return native | both(notebook, "ln_f", "norm") | both(notebook, "vit_head", "head")


def block_from_notebook(notebook: State, block: str, heads: int) -> State:
    """One encoder block's parameters."""
    names = {"ln1": "norm1", "sa.proj": "attn.proj", "ln2": "norm2", "ffwd.net.0": "mlp.fc1", "ffwd.net.2": "mlp.fc2"}
    native: State = {}
    for old, new in names.items():
        native |= both(notebook, f"{block}.{old}", f"{block}.{new}")
    rows = [
        notebook[f"{block}.sa.heads.{head}.{part}.weight"]
        for part in ("query", "key", "value")
        for head in range(heads)
    ]
    native[f"{block}.attn.qkv.weight"] = torch.cat(rows)
    return native


def both(state: State, old: str, new: str) -> State:
    """Weight and bias of a layer under its new name."""
    return {f"{new}.{part}": state[f"{old}.{part}"] for part in ("weight", "bias")}
