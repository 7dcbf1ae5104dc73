"""The notebook's model, its classes copied as they stand.

The names of modules and attributes are the notebook's own, so `VisionTransformer(49, 32).state_dict()` *is* the
`notebook` parameter layout. One change: the patches' `view(64, 16, 49)` is `view(-1, 16, 49)`, so that any batch
size will do. Type hints are left out for the same reason that the unused arguments are left in: this is a copy.
"""

import torch
import torch.nn as nn
import torch.nn.functional as F

n_embd = 32
dropout = 0.2


class Head(nn.Module):
    ''' One head of self-attention '''
    def __init__(self, head_size):
        super().__init__()
        self.key = nn.Linear(n_embd, head_size, bias = False)
        self.query = nn.Linear(n_embd, head_size, bias = False)
        self.value = nn.Linear(n_embd, head_size, bias = False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x):
        B, T, C = x.shape
        k = self.key(x)
        q = self.query(x)

        #compute attention scores
        wei = q @ k.transpose(-2,-1) * C**(-0.5)
        wei = F.softmax(wei, dim=-1)
        wei = self.dropout(wei)

        #perform weighted aggregation of the values
        v = self.value(x)
        out = wei @ v

        return out


class MultiHeadAttention(nn.Module):
    ''' Multiple heads of self-attention in parallel '''
    def __init__(self, num_heads, head_size):
        super().__init__()
        self.heads = nn.ModuleList([Head(head_size) for _ in range(num_heads)])
        self.proj = nn.Linear(n_embd, n_embd)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x):
        out = torch.cat([h(x) for h in self.heads], dim=-1)
        out = self.dropout(self.proj(out))
        return out


class FeedForward(nn.Module):
    '''A simple linear layer followed by a non-linearity'''
    def __init__(self, n_embd):
        super().__init__()
        self.net=nn.Sequential(
            nn.Linear(n_embd, 4 * n_embd),
            nn.ReLU(),
            nn.Linear(4 * n_embd, n_embd),
            nn.Dropout(dropout),
        )

    def forward(self, x):
        return self.net(x)


class Block(nn.Module):
    def __init__(self, n_embd, n_head):
        super().__init__()
        head_size = n_embd // n_head
        self.sa = MultiHeadAttention(n_head, head_size)
        self.ffwd = FeedForward(n_embd)
        self.ln1 = nn.LayerNorm(n_embd)
        self.ln2 = nn.LayerNorm(n_embd)

    def forward(self, x):
        x = x + self.sa(self.ln1(x))
        x = x + self.ffwd(self.ln2(x))
        return x


class VisionTransformer(nn.Module):
    def __init__(self, img_vec_size, n_embd, block_size=16):
        super().__init__()
        self.encoder = nn.Linear(49, 32)
        self.pos_embedding = nn.Linear(49, 32)
        self.blocks = nn.Sequential(
            Block(n_embd, n_head=4),
            Block(n_embd, n_head=4),
            Block(n_embd, n_head=4)
        )
        self.ln_f = nn.LayerNorm(n_embd)
        self.vit_head = nn.Linear(n_embd, 10)

    def forward(self, imgs):
        patch_size = 7
        imgs_patches = imgs.unfold(2, patch_size, patch_size).unfold(3, patch_size, patch_size)
        imgs_patches = imgs_patches.contiguous().view(-1, 16, 49)  # the notebook: view(64, 16, 49)
        x = self.encoder(imgs_patches)
        x = x + self.pos_embedding(imgs_patches)
        x = self.blocks(x)
        x = self.ln_f(x)
        x = self.vit_head(x)
        x = x[:, 0] # Use first token for classification
        x = torch.softmax(x, dim=1)
        return x
