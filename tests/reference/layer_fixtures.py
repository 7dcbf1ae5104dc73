"""Write the fixtures of crates/vit-layers/tests/fixtures: results of PyTorch's transformer layers, for vit-layers' tests.

    python layer_fixtures.py [--out DIR]

`nn.TransformerEncoder` with pre-norm and post-norm, causal, with a learned score bias, each with and without a padding mask;
cross-attention by `nn.MultiheadAttention` with a padding mask. Parameters are written under vit-layers' names. See README.md for what each file holds.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from make_fixtures import write

FIXTURES = Path(__file__).resolve().parent.parent.parent / "crates" / "vit-layers" / "tests" / "fixtures"

DIM, HEADS, MLP_DIM, DEPTH, TOKENS = 16, 4, 24, 2, 7
LENGTHS = [7, 4, 1]
CONTEXT_DIM = 10

NAMES = {
    "self_attn.in_proj_weight": "attn.qkv.weight",
    "self_attn.in_proj_bias": "attn.qkv.bias",
    "self_attn.out_proj.weight": "attn.proj.weight",
    "self_attn.out_proj.bias": "attn.proj.bias",
    "linear1.weight": "mlp.fc1.weight",
    "linear1.bias": "mlp.fc1.bias",
    "linear2.weight": "mlp.fc2.weight",
    "linear2.bias": "mlp.fc2.bias",
    "norm1.weight": "norm1.weight",
    "norm1.bias": "norm1.bias",
    "norm2.weight": "norm2.weight",
    "norm2.bias": "norm2.bias",
}


@dataclass(frozen=True)
class Case:
    """A `nn.TransformerEncoder`; `seed` fixes its parameters and tokens."""

    name: str
    norm_first: bool
    activation: str
    seed: int
    padded: bool = True
    causal: bool = False
    biased: bool = False


CASES = [
    Case("pre-norm", True, "gelu", 1),
    Case("post-norm", False, "relu", 2),
    Case("causal", True, "gelu", 4, padded=False, causal=True),
    Case("causal-padded", True, "gelu", 5, causal=True),
    Case("biased", True, "gelu", 6, padded=False, biased=True),
    Case("biased-padded", False, "relu", 7, biased=True),
]


def padding(lengths: list[int], tokens: int) -> Tensor:
    """PyTorch's mask: true where there is padding."""
    return torch.arange(tokens)[None, :] >= torch.tensor(lengths)[:, None]


def roughen(module: nn.Module) -> None:
    """Makes every parameter differ from 0 and 1, so that an unused one is detected."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.1 * torch.randn_like(parameter)


def native(case: Case, encoder: nn.TransformerEncoder) -> dict[str, nn.Parameter]:
    """The encoder's parameters under vit-layers' names."""
    named = dict(encoder.named_parameters())
    result = {
        f"blocks.{block}.{ours}": named[f"layers.{block}.{theirs}"] for block in range(DEPTH) for theirs, ours in NAMES.items()
    }
    if case.norm_first:
        result |= {f"norm.{part}": named[f"norm.{part}"] for part in ("weight", "bias")}
    return result


def weighed(output: Tensor, queries: list[int] | None) -> tuple[Tensor, Tensor]:
    """The sum of the output times fixed random numbers, zeros where there is padding, and these numbers."""
    weigh = torch.randn_like(output)
    if queries is not None:
        weigh = weigh.masked_fill(padding(queries, output.shape[1])[:, :, None], 0.0)
    return (output * weigh).sum(), weigh


def masks(case: Case) -> tuple[dict[str, Tensor | bool], Tensor | None]:
    """The encoder's masks, and the learned score bias (1, heads, tokens, tokens)."""
    told: dict[str, Tensor | bool] = {}
    bias = None
    if case.padded:
        told["src_key_padding_mask"] = padding(LENGTHS, TOKENS)
    if case.causal:
        told |= {"mask": nn.Transformer.generate_square_subsequent_mask(TOKENS), "is_causal": True}
    if case.biased:
        bias = torch.randn(1, HEADS, TOKENS, TOKENS, requires_grad=True)
        told["mask"] = bias.repeat(len(LENGTHS), 1, 1, 1).flatten(0, 1)
    return told, bias


def encoder_tensors(case: Case) -> dict[str, Tensor]:
    """Output, attention weights of the first block, and every gradient."""
    torch.manual_seed(case.seed)
    layer = nn.TransformerEncoderLayer(
        DIM, HEADS, MLP_DIM, dropout=0.0, activation=case.activation, batch_first=True, norm_first=case.norm_first
    )
    norm = nn.LayerNorm(DIM) if case.norm_first else None
    encoder = nn.TransformerEncoder(layer, DEPTH, norm=norm, enable_nested_tensor=False).train()
    roughen(encoder)
    xs = torch.randn(len(LENGTHS), TOKENS, DIM, requires_grad=True)
    told, bias = masks(case)
    output = encoder(xs, **told)
    loss, weigh = weighed(output, LENGTHS if case.padded else None)
    loss.backward()
    first = encoder.layers[0]
    attended = first.norm1(xs) if case.norm_first else xs
    told = {"attn_mask": told.get("mask"), "key_padding_mask": told.get("src_key_padding_mask")}
    weights = first.self_attn(attended, attended, attended, **told, average_attn_weights=False)[1]
    parameters = native(case, encoder)
    learned = {} if bias is None else {"bias": bias.detach(), "grad.bias": bias.grad}
    return learned | {
        "xs": xs.detach(),
        "grad.xs": xs.grad,
        "weigh": weigh,
        "output": output.detach(),
        "weights.0": weights.detach(),
        **{f"param.{name}": parameter.detach() for name, parameter in parameters.items()},
        **{f"grad.{name}": parameter.grad for name, parameter in parameters.items()},
    }


def cross_attention_tensors() -> dict[str, Tensor]:
    """`nn.MultiheadAttention` with keys and values of another sequence and width."""
    torch.manual_seed(3)
    attention = nn.MultiheadAttention(DIM, HEADS, kdim=CONTEXT_DIM, vdim=CONTEXT_DIM, batch_first=True)
    roughen(attention)
    xs = torch.randn(len(LENGTHS), 5, DIM, requires_grad=True)
    context = torch.randn(len(LENGTHS), TOKENS, CONTEXT_DIM, requires_grad=True)
    mask = padding(LENGTHS, TOKENS)
    output, weights = attention(xs, context, context, key_padding_mask=mask, average_attn_weights=False)
    loss, weigh = weighed(output, None)
    loss.backward()

    def parts(of: str) -> dict[str, Tensor]:
        value = (lambda parameter: parameter.detach()) if of == "param" else (lambda parameter: parameter.grad)
        q_bias, kv_bias = value(attention.in_proj_bias).split([DIM, 2 * DIM])
        return {
            f"{of}.q.weight": value(attention.q_proj_weight),
            f"{of}.q.bias": q_bias.clone(),
            f"{of}.kv.weight": torch.cat([value(attention.k_proj_weight), value(attention.v_proj_weight)]),
            f"{of}.kv.bias": kv_bias.clone(),
            f"{of}.proj.weight": value(attention.out_proj.weight),
            f"{of}.proj.bias": value(attention.out_proj.bias),
        }

    tensors = {"xs": xs.detach(), "grad.xs": xs.grad, "context": context.detach(), "grad.context": context.grad}
    return tensors | {"weigh": weigh, "output": output.detach(), "weights": weights.detach()} | parts("param") | parts("grad")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=FIXTURES)
    args = parser.parse_args()
    torch.set_num_threads(1)
    for case in CASES:
        write(args.out / f"{case.name}.safetensors", encoder_tensors(case), {})
    write(args.out / "cross-attention.safetensors", cross_attention_tensors(), {})


if __name__ == "__main__":
    main()
