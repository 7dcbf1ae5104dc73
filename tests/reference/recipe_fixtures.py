"""Write tests/fixtures/recipe.json: PyTorch's learning rates, parameter groups, clipped gradients and steps of SGD.

    python recipe_fixtures.py [--out FILE]

README.md describes it.
"""

import argparse
import json
from pathlib import Path

import torch
from torch import nn
from torch.optim import lr_scheduler

FIXTURE = Path(__file__).resolve().parent.parent / "fixtures" / "recipe.json"

LR = 2e-3


def rates(steps: int, schedule) -> list[float]:
    """The learning rate of each step under a schedule."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=LR)
    scheduler = schedule(optimizer)
    got = []
    for _ in range(steps):
        got.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return got


def cosine(steps: int, warmup: int, floor: float):
    """Cosine annealing behind a linear warm-up."""

    def schedule(optimizer):
        annealing = lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps - warmup, eta_min=floor)
        if warmup == 0:
            return annealing
        rising = lr_scheduler.LinearLR(optimizer, start_factor=1 / warmup, total_iters=warmup - 1)
        return lr_scheduler.SequentialLR(optimizer, [rising, annealing], milestones=[warmup])

    return schedule


def schedules() -> list[dict]:
    """Each case's settings under vit-train's names, and its rates."""
    cases = [
        ({"kind": "cosine"}, 23, cosine(23, 0, 0.0)),
        ({"kind": "cosine", "warmup": 5, "min_lr": 1e-4}, 40, cosine(40, 5, 1e-4)),
        ({"kind": "one_cycle"}, 30, lambda o: lr_scheduler.OneCycleLR(o, max_lr=LR, total_steps=30)),
        ({"kind": "one_cycle"}, 37, lambda o: lr_scheduler.OneCycleLR(o, max_lr=LR, total_steps=37)),
        (
            {"kind": "one_cycle", "warmup": 10},
            40,
            lambda o: lr_scheduler.OneCycleLR(o, max_lr=LR, total_steps=40, pct_start=0.25),
        ),
    ]
    return [{"schedule": schedule, "lr": LR, "rates": rates(steps, make)} for schedule, steps, make in cases]


def groups() -> dict:
    """Ten steps of AdamW over two groups, each on clipped gradients; a matrix, a bias and a position table, in float64."""
    generator = torch.Generator().manual_seed(1)
    shapes = {"bias": (3,), "pos_embed": (1, 2, 3), "weight": (3, 2)}
    draw = lambda shape: torch.randn(shape, generator=generator, dtype=torch.float64)
    parameters = {name: nn.Parameter(draw(shape)) for name, shape in shapes.items()}
    initial = {name: p.tolist() for name, p in parameters.items()}
    spared = [parameters["bias"], parameters["pos_embed"]]
    optimizer = torch.optim.AdamW([{"params": spared, "weight_decay": 0.0}, {"params": [parameters["weight"]]}], lr=LR, weight_decay=0.1)
    steps = []
    for _ in range(10):
        gradients = {name: draw(shape) for name, shape in shapes.items()}
        for name, p in parameters.items():
            p.grad = gradients[name].clone()
        norm = torch.nn.utils.clip_grad_norm_(parameters.values(), max_norm=3.5)
        optimizer.step()
        steps.append({"norm": norm.item(), "gradients": {name: g.tolist() for name, g in gradients.items()}})
    final = {name: p.tolist() for name, p in parameters.items()}
    return {"lr": LR, "weight_decay": 0.1, "clip": 3.5, "initial": initial, "steps": steps, "final": final}


def sgd() -> list[dict]:
    """Ten steps of SGD in float64 for each case's settings, under vit-train's names, over two groups: `head` learns twice as
    fast and does not decay."""
    cases = [
        {"momentum": 0.0, "nesterov": False, "weight_decay": 0.0},
        {"momentum": 0.0, "nesterov": False, "weight_decay": 0.1},
        {"momentum": 0.9, "nesterov": False, "weight_decay": 0.1},
        {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
    ]
    results = []
    for case in cases:
        generator = torch.Generator().manual_seed(2)
        draw = lambda shape: torch.randn(shape, generator=generator, dtype=torch.float64)
        parameters = {name: nn.Parameter(draw(shape)) for name, shape in {"head": (3, 2), "trunk": (2, 4)}.items()}
        initial = {name: p.tolist() for name, p in parameters.items()}
        head = {"params": [parameters["head"]], "lr": 2 * LR, "weight_decay": 0.0}
        optimizer = torch.optim.SGD([head, {"params": [parameters["trunk"]]}], lr=LR, **case)
        steps = []
        for _ in range(10):
            for p in parameters.values():
                p.grad = draw(p.shape)
            steps.append({name: p.grad.tolist() for name, p in parameters.items()})
            optimizer.step()
        final = {name: p.tolist() for name, p in parameters.items()}
        results.append({"optimizer": {"kind": "sgd", "lr": LR, **case}, "initial": initial, "steps": steps, "final": final})
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=FIXTURE)
    args = parser.parse_args()
    args.out.write_text(json.dumps({"schedules": schedules(), "groups": groups(), "sgd": sgd()}, indent=1) + "\n")
    print(f"{args.out}: {args.out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
