"""A Vision Transformer (arXiv 2010.11929) in plain PyTorch with every quirk as a field of its configuration.

Parameters have timm's names, so `dict(model.named_parameters())` is the native layout:

    patch_embed.proj.{weight,bias}      (dim, channels, patch height, patch width), (dim)
    pos_embed                           (1, tokens, dim), the class token counted; position `learned`
    pos_embed.proj.{weight,bias}        as patch_embed.proj; position `patch_linear`
    cls_token                           (1, 1, dim); pool `cls`
    blocks.N.norm1.{weight,bias}        (dim)
    blocks.N.attn.qkv.{weight,bias}     (3 dim, dim): rows of q, then k, then v, each head after head
    blocks.N.attn.proj.{weight,bias}    (dim, dim)
    blocks.N.norm2.{weight,bias}        (dim)
    blocks.N.mlp.fc1.{weight,bias}      (mlp_dim, dim)
    blocks.N.mlp.fc2.{weight,bias}      (dim, mlp_dim)
    norm.{weight,bias}                  (dim)
    head.{weight,bias}                  (classes, dim)
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Image:
    """Image size in pixels."""

    height: int = 28
    width: int = 28
    channels: int = 1


@dataclass(frozen=True)
class Patch:
    """Patch size in pixels; patches are in row order, values within one as channel, row, column."""

    height: int = 7
    width: int = 7


@dataclass(frozen=True)
class Dropout:
    """Rates: after the positions, on the attention weights, after attn.proj, after mlp.fc2."""

    embedding: float = 0.0
    attention: float = 0.0
    projection: float = 0.0
    mlp: float = 0.0


@dataclass(frozen=True)
class Config:
    """A model's configuration; the default is the preset `shallow` with all dropout off."""

    image: Image = field(default_factory=Image)
    patch: Patch = field(default_factory=Patch)
    dim: int = 32
    depth: int = 3
    heads: int = 4
    mlp_dim: int = 128
    classes: int = 10
    position: Literal["none", "learned", "sincos2d", "patch_linear"] = "learned"
    score_scale: Literal["head_dim", "dim"] = "head_dim"
    output: Literal["logits", "softmax"] = "logits"
    pool: Literal["first", "cls", "mean"] = "first"
    activation: Literal["relu", "gelu"] = "relu"
    qkv_bias: bool = False
    dropout: Dropout = field(default_factory=Dropout)
    drop_path: float = 0.0
    layer_norm_eps: float = 1e-5

    @property
    def grid(self) -> tuple[int, int]:
        """Patches down and across."""
        return self.image.height // self.patch.height, self.image.width // self.patch.width

    def to_dict(self) -> dict[str, Any]:
        """The configuration as the JSON object that fixtures carry."""
        return asdict(self)


SHALLOW = Config()
NOTEBOOK = replace(SHALLOW, position="patch_linear", score_scale="dim", output="softmax")
PRESETS = {"shallow": SHALLOW, "notebook": NOTEBOOK}


def sincos2d(height: int, width: int, dim: int) -> Tensor:
    """Fixed positions (height * width, dim), as `posemb_sincos_2d` of big_vision's `models/vit.py` (MoCo v3, simple ViT)."""
    omega = torch.arange(dim // 4) / (dim // 4 - 1)
    omega = 1.0 / (10_000**omega)
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    y = y.flatten()[:, None] * omega[None, :]
    x = x.flatten()[:, None] * omega[None, :]
    return torch.cat([x.sin(), x.cos(), y.sin(), y.cos()], dim=1)


def patchify(images: Tensor, patch: Patch) -> Tensor:
    """Flattened patches (batch, patches, channels * patch height * patch width)."""
    batch, channels, height, width = images.shape
    rows, columns = height // patch.height, width // patch.width
    cut = images.reshape(batch, channels, rows, patch.height, columns, patch.width)
    return cut.permute(0, 2, 4, 1, 3, 5).reshape(batch, rows * columns, -1)


class PatchEmbed(nn.Module):
    """A linear map of each flattened patch, with the parameters of the equal convolution (stride = kernel)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        patch = (config.patch.height, config.patch.width)
        self.proj = nn.Conv2d(config.image.channels, config.dim, kernel_size=patch, stride=patch)

    def forward(self, patches: Tensor) -> Tensor:
        return F.linear(patches, self.proj.weight.flatten(1), self.proj.bias)  # (batch, patches, dim)


class Attention(nn.Module):
    """softmax(q k^T * scale) v over heads, then a linear map."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        head_dim = config.dim // config.heads
        self.heads = config.heads
        self.scale = {"head_dim": head_dim, "dim": config.dim}[config.score_scale] ** -0.5
        self.qkv = nn.Linear(config.dim, 3 * config.dim, bias=config.qkv_bias)
        self.proj = nn.Linear(config.dim, config.dim)
        self.weight_dropout = nn.Dropout(config.dropout.attention)
        self.proj_dropout = nn.Dropout(config.dropout.projection)

    def split(self, xs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """q, k and v of `xs`, each (batch, heads, tokens, head_dim)."""
        batch, tokens, dim = xs.shape
        qkv = self.qkv(xs).reshape(batch, tokens, 3, self.heads, dim // self.heads)
        return qkv.permute(2, 0, 3, 1, 4).unbind(0)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Each head's weighted values (batch, heads, tokens, head_dim)."""
        weights = (q @ k.transpose(-2, -1) * self.scale).softmax(dim=-1)
        return self.weight_dropout(weights) @ v

    def forward(self, xs: Tensor) -> Tensor:
        joined = self.attend(*self.split(xs)).transpose(1, 2).flatten(2)  # (batch, tokens, dim)
        return self.proj_dropout(self.proj(joined))


class Mlp(nn.Module):
    """Linear, activation, linear, dropout (only at the end, as in the notebook)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.dim, config.mlp_dim)
        self.fc2 = nn.Linear(config.mlp_dim, config.dim)
        activations: dict[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, "gelu": F.gelu}
        self.activation = activations[config.activation]
        self.dropout = nn.Dropout(config.dropout.mlp)

    def forward(self, xs: Tensor) -> Tensor:
        return self.dropout(self.fc2(self.activation(self.fc1(xs))))


class Block(nn.Module):
    """A pre-norm encoder block (equations 2 and 3 of the paper)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.dim, eps=config.layer_norm_eps)
        self.attn = Attention(config)
        self.norm2 = nn.LayerNorm(config.dim, eps=config.layer_norm_eps)
        self.mlp = Mlp(config)

    def forward(self, xs: Tensor) -> Tensor:
        xs = xs + self.attn(self.norm1(xs))
        return xs + self.mlp(self.norm2(xs))


class VisionTransformer(nn.Module):
    """Images (batch, channels, height, width) to logits or probabilities (batch, classes)."""

    pos_embed: Any  # a parameter or a PatchEmbed, under the one name

    def __init__(self, config: Config) -> None:
        super().__init__()
        if config.drop_path != 0.0:
            raise NotImplementedError("drop path is not part of the reference")
        self.config = config
        self.patch_embed = PatchEmbed(config)
        self.add_positions_and_class(config)
        self.dropout = nn.Dropout(config.dropout.embedding)
        self.blocks = nn.Sequential(*[Block(config) for _ in range(config.depth)])
        self.norm = nn.LayerNorm(config.dim, eps=config.layer_norm_eps)
        self.head = nn.Linear(config.dim, config.classes)

    def add_positions_and_class(self, config: Config) -> None:
        """Make `pos_embed` and `cls_token` if the configuration has them."""
        rows, columns = config.grid
        tokens = rows * columns + (config.pool == "cls")
        if config.pool == "cls":
            self.cls_token = nn.Parameter(torch.empty(1, 1, config.dim).normal_(std=0.02))
        if config.position == "learned":
            self.pos_embed = nn.Parameter(torch.empty(1, tokens, config.dim).normal_(std=0.02))
        elif config.position == "patch_linear":
            self.pos_embed = PatchEmbed(config)
        elif config.position == "sincos2d":
            self.register_buffer("sincos", sincos2d(rows, columns, config.dim)[None], persistent=False)

    def embed(self, images: Tensor) -> Tensor:
        """Tokens with their positions; only learned positions are added to the class token too."""
        patches = patchify(images, self.config.patch)
        xs = self.patch_embed(patches)
        if self.config.position == "patch_linear":
            xs = xs + self.pos_embed(patches)
        elif self.config.position == "sincos2d":
            xs = xs + self.sincos
        if self.config.pool == "cls":
            xs = torch.cat([self.cls_token.expand(xs.shape[0], -1, -1), xs], dim=1)
        if self.config.position == "learned":
            xs = xs + self.pos_embed
        return self.dropout(xs)

    def forward(self, images: Tensor) -> Tensor:
        xs = self.norm(self.blocks(self.embed(images)))  # (batch, tokens, dim)
        pooled = xs.mean(dim=1) if self.config.pool == "mean" else xs[:, 0]
        logits = self.head(pooled)
        return logits.softmax(dim=1) if self.config.output == "softmax" else logits
