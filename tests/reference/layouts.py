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


def native_from_hf(hf: State) -> State:
    """From transformers' `ViTForImageClassification`, under either of its namings, to the native names."""
    names = {
        "vit.embeddings.patch_embeddings.projection": "patch_embed.proj",
        "vit.layernorm": "norm",
        "classifier": "head",
    }
    native = {"cls_token": hf["vit.embeddings.cls_token"], "pos_embed": hf["vit.embeddings.position_embeddings"]}
    for old, new in names.items():
        native |= both(hf, old, new)
    in_memory = any(name.startswith("vit.layers.") for name in hf)
    blocks = "vit.layers" if in_memory else "vit.encoder.layer"
    depth = len({name.split(".")[len(blocks.split("."))] for name in hf if name.startswith(blocks)})
    for block in range(depth):
        native |= block_from_hf(hf, f"{blocks}.{block}", f"blocks.{block}", in_memory)
    return native


def block_from_hf(hf: State, old: str, new: str, in_memory: bool) -> State:
    """One encoder block's parameters."""
    if in_memory:
        qkv, names = "attention.{}_proj", {"attention.o_proj": "attn.proj", "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2"}
        parts = "qkv"
    else:
        qkv, parts = "attention.attention.{}", ("query", "key", "value")
        names = {"attention.output.dense": "attn.proj", "intermediate.dense": "mlp.fc1", "output.dense": "mlp.fc2"}
    names |= {"layernorm_before": "norm1", "layernorm_after": "norm2"}
    native: State = {}
    for theirs, ours in names.items():
        native |= both(hf, f"{old}.{theirs}", f"{new}.{ours}")
    for parameter in ("weight", "bias"):
        rows = [hf.get(f"{old}.{qkv.format(part)}.{parameter}") for part in parts]
        if rows[0] is not None:
            native[f"{new}.attn.qkv.{parameter}"] = torch.cat(rows)
    return native
