"""The `shallow` preset in the notebook's style: the model that the notebook's text describes, unlike its code.

Three things differ from `seed_model`: a learned position table (1, 16, 32) named `pos_embedding`, scores over the
square root of the head's width, and logits as the output. The other names stay, separate heads included.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import seed_model


class ShallowHead(seed_model.Head):
    """The notebook's head with `d_k`, the head's width, under the root, as its formula says."""

    def forward(self, x: Tensor) -> Tensor:
        k = self.key(x)
        wei = self.query(x) @ k.transpose(-2, -1) * k.shape[-1] ** -0.5
        wei = self.dropout(F.softmax(wei, dim=-1))
        return wei @ self.value(x)


class ShallowVisionTransformer(seed_model.VisionTransformer):
    """The notebook's model with `ShallowHead`, a learned position table and logits."""

    def __init__(self) -> None:
        super().__init__(49, seed_model.n_embd)
        self.pos_embedding = nn.Parameter(torch.empty(1, 16, seed_model.n_embd).normal_(std=0.02))
        for block in self.blocks:
            block.sa.heads = nn.ModuleList([ShallowHead(8) for _ in range(4)])

    def forward(self, imgs: Tensor) -> Tensor:
        patches = imgs.unfold(2, 7, 7).unfold(3, 7, 7).contiguous().view(-1, 16, 49)
        x = self.encoder(patches) + self.pos_embedding
        x = self.ln_f(self.blocks(x))
        return self.vit_head(x)[:, 0]


def seed_style(preset: str) -> nn.Module:
    """A preset's model in the notebook's style, with PyTorch's default initialisation."""
    if preset == "notebook":
        return seed_model.VisionTransformer(49, seed_model.n_embd)
    return ShallowVisionTransformer()


def set_dropout(model: nn.Module, rate: float) -> nn.Module:
    """Give every dropout of `model` this rate; the notebook's classes fix it at 0.2."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = rate
    return model
