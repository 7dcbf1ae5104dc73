"""Time PyTorch's nn.TransformerEncoder at the workload of tests/consumer's `speed`. Prints one JSON object.

    python encoder_bench.py train|infer --batch N --tokens N --dim N --depth N --heads N
        [--attend all|padded|causal|bias] [--steps N] [--threads N]

Pre-norm, GELU, no dropout, float32; training uses fused AdamW, inference `torch.inference_mode()`.
"""

import argparse
import json
import statistics
import time

import torch
from torch import Tensor, nn


def lengths(batch: int, tokens: int) -> Tensor:
    """Half to all of the tokens."""
    return torch.tensor([tokens - (sample * 37) % (tokens // 2 + 1) for sample in range(batch)])


def masks(args: argparse.Namespace) -> dict[str, Tensor | bool]:
    """The encoder's masks and bias."""
    tokens = args.tokens
    if args.attend == "padded":
        return {"src_key_padding_mask": torch.arange(tokens)[None, :] >= lengths(args.batch, tokens)[:, None]}
    if args.attend == "causal":
        return {"mask": nn.Transformer.generate_square_subsequent_mask(tokens), "is_causal": True}
    if args.attend == "bias":
        return {"mask": torch.randn(tokens, tokens)}
    return {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", choices=["train", "infer"])
    for name in ("batch", "tokens", "dim", "depth", "heads"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--attend", choices=["all", "padded", "causal", "bias"], default="all")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(
        args.dim, args.heads, 4 * args.dim, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
    )
    encoder = nn.TransformerEncoder(layer, args.depth, norm=nn.LayerNorm(args.dim), enable_nested_tensor=False)
    xs = torch.randn(args.batch, args.tokens, args.dim)
    told = masks(args)

    if args.work == "train":
        encoder.train()
        optimizer = torch.optim.AdamW(encoder.parameters(), lr=1e-4, fused=True)

        def work() -> None:
            optimizer.zero_grad()
            encoder(xs, **told).square().mean().backward()
            optimizer.step()
    else:
        encoder.eval()

        @torch.inference_mode()
        def work() -> None:
            encoder(xs, **told)

    times = []
    for _ in range(args.steps + args.steps // 5 + 1):
        begun = time.perf_counter()
        work()
        times.append(time.perf_counter() - begun)
    times = [1e3 * seconds for seconds in times[args.steps // 5 + 1 :]]
    median, least = round(statistics.median(times), 4), round(min(times), 4)
    print(json.dumps({"median_ms": median, "least_ms": least, "torch": torch.__version__}))


if __name__ == "__main__":
    main()
