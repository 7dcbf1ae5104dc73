"""Write the fixtures of tests/fixtures: PyTorch's results, for the Rust tests.

    python make_fixtures.py [--mnist DIR] [--out DIR]

Without --mnist, `mnist-20-steps` is left out. README.md describes each file. Each training run is repeated in float64
and with the batch reversed; a fixture whose losses or parameters depend on rounding by more than a tenth of the tests'
tolerance (a ReLU near its kink, say) is rejected: give that case another seed.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import checks
import mnist
import shallow_model
import vit
from layouts import State, native_from_notebook

FIXTURES = Path(__file__).resolve().parent.parent / "fixtures"

SMALL = replace(vit.SHALLOW, image=vit.Image(12, 12, 1), patch=vit.Patch(4, 4), dim=16, depth=2, heads=2, mlp_dim=32, classes=7)
COLOUR = vit.Image(12, 12, 3)
WIDE = vit.Image(8, 12, 1)

F32_LOSS, F32_PARAM = 1e-5, 1e-5  # a tenth of the 1e-4 that the tests allow in float32
F64_DRIFT = 1e-10  # a tenth of the 1e-9 that the tests allow in float64


@dataclass(frozen=True)
class Optimizer:
    """An optimiser's settings, as in a fixture's metadata."""

    kind: str = "adam"
    lr: float = 3e-4
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0

    def build(self, model: nn.Module) -> torch.optim.Optimizer:
        """PyTorch's optimiser over all parameters of `model`, in one group."""
        chosen = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[self.kind]
        return chosen(
            model.parameters(), lr=self.lr, betas=(self.beta1, self.beta2), eps=self.eps, weight_decay=self.weight_decay
        )


@dataclass(frozen=True)
class Case:
    """One model to make a fixture of; `seed` fixes its parameters, images and labels."""

    name: str
    config: vit.Config
    seed: int
    optimizer: Optimizer = Optimizer()


AGREEMENT = [
    Case("notebook", vit.NOTEBOOK, 1),
    Case("shallow", vit.SHALLOW, 2),
    Case("gelu", replace(vit.SHALLOW, activation="gelu"), 3),
    Case("cls", replace(SMALL, pool="cls", activation="gelu", qkv_bias=True, layer_norm_eps=1e-6), 4),
    Case("mean", replace(SMALL, image=COLOUR, pool="mean", activation="gelu"), 5),
    Case("qkv-bias", replace(SMALL, qkv_bias=True), 6),
    Case("sincos", replace(SMALL, image=WIDE, position="sincos2d", pool="mean"), 7),
    Case("sincos-cls", replace(SMALL, image=WIDE, position="sincos2d", pool="cls", layer_norm_eps=1e-12), 8),
    Case("no-position", replace(SMALL, position="none"), 9),
    Case("softmax-dim", replace(SMALL, image=COLOUR, position="patch_linear", output="softmax", score_scale="dim"), 10),
    Case("rectangular", replace(SMALL, image=vit.Image(8, 18, 3), patch=vit.Patch(4, 6)), 11),
]

ADAM_F64 = [
    Case("relu", SMALL, 21, Optimizer(lr=1e-3)),
    Case("gelu", replace(SMALL, activation="gelu"), 22),
    Case("adamw", replace(SMALL, activation="gelu", pool="cls"), 23, Optimizer("adamw", 1e-3, 0.9, 0.95, 1e-8, 0.05)),
    Case("adam-decay", replace(SMALL, activation="gelu"), 24, Optimizer("adam", 1e-3, 0.9, 0.999, 1e-8, 0.05)),
]


@dataclass(frozen=True)
class Problem:
    """A model with its parameters, and a batch."""

    model: vit.VisionTransformer
    images: Tensor
    labels: Tensor

    def copy(self, dtype: torch.dtype, *, turned: bool = False) -> "Problem":
        """The same in another precision; reversing the batch changes only the order of sums."""
        model = vit.VisionTransformer(self.model.config).to(dtype)
        model.load_state_dict(self.model.state_dict())
        order = torch.arange(len(self.labels))
        order = order.flip(0) if turned else order
        return Problem(model, self.images.to(dtype)[order], self.labels[order])


def make_problem(case: Case, dtype: torch.dtype) -> Problem:
    """PyTorch's default initialisation with LayerNorm, positions and class token roughened, so that none is trivial."""
    torch.manual_seed(case.seed)
    config = case.config
    model = vit.VisionTransformer(config).to(dtype)
    for name, parameter in model.named_parameters():
        if "norm" in name or name in ("pos_embed", "cls_token"):
            parameter.data += 0.1 * torch.randn(parameter.shape)
    count = 8 if config.image.height == 28 else 6
    images = torch.randn(count, config.image.channels, config.image.height, config.image.width)
    labels = torch.randperm(config.classes)[torch.arange(count) % config.classes]
    return Problem(model, images.to(dtype), labels)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, batches: list[tuple[Tensor, Tensor]]) -> list[float]:
    """A step on each batch; the losses, each taken before its step."""
    losses = []
    for images, labels in batches:
        loss = F.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def parameters(model: nn.Module) -> State:
    """A copy of the parameters by name."""
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def adam_run(problem: Problem, optimizer: Optimizer, steps: int, keep_at: int) -> tuple[Tensor, State]:
    """`steps` losses on the single batch, and the parameters after `keep_at` steps; does not change the problem's model."""
    problem = problem.copy(problem.images.dtype)
    batch = [(problem.images, problem.labels)]
    built = optimizer.build(problem.model)
    losses = train(problem.model, built, batch * keep_at)
    kept = parameters(problem.model)
    losses += train(problem.model, built, batch * (steps - keep_at))
    return torch.tensor(losses, dtype=problem.images.dtype), kept


def without_key_bias(state: State) -> State:
    """The state with the key's part of each qkv bias zeroed: its exact gradient is zero, so Adam follows rounding there."""
    state = dict(state)
    for name in state:
        if name.endswith("attn.qkv.bias"):
            query, key, value = state[name].chunk(3)
            state[name] = torch.cat([query, torch.zeros_like(key), value])
    return state


def drift(run: tuple[Tensor, State], other: tuple[Tensor, State]) -> tuple[float, float]:
    """The largest relative difference of a loss, and of a parameter by norm, between two runs."""
    losses, expected_losses = run[0].double(), other[0].double()
    loss = ((losses - expected_losses).abs() / expected_losses.abs()).max().item()
    state, expected = without_key_bias(run[1]), without_key_bias(other[1])
    norms = [((state[name].double() - expected[name].double()).norm() / expected[name].double().norm()).item() for name in state]
    return loss, max(norms)


def stable_adam_run(case: Case, problem: Problem, steps: int, keep_at: int) -> tuple[Tensor, State]:
    """`adam_run`, after checking that it hardly depends on rounding."""
    run = adam_run(problem, case.optimizer, steps, keep_at)
    double = problem.images.dtype == torch.float64
    others = [problem.copy(torch.float64, turned=True)] + ([] if double else [problem.copy(torch.float32, turned=True)])
    drifts = [drift(run, adam_run(other, case.optimizer, steps, keep_at)) for other in others]
    loss, parameter = (max(values) for values in zip(*drifts, strict=True))
    print(f"  {case.name}: {steps} steps drift by {loss:.1e} (loss), {parameter:.1e} (parameters)")
    limits = (F64_DRIFT, F64_DRIFT) if double else (F32_LOSS, F32_PARAM)
    if loss > limits[0] or parameter > limits[1]:
        raise AssertionError(f"{case.name}: depends on rounding; choose another seed")
    return run


def prefixed(prefix: str, state: State) -> State:
    """The state with `prefix` before each name."""
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


def agreement_tensors(case: Case) -> State:
    """Everything of one `agreement` fixture."""
    problem = make_problem(case, torch.float32)
    output, gradients = checks.gradients(problem.model, problem.images, problem.labels)
    check_gradients(case, problem, gradients)
    losses, after_10 = stable_adam_run(case, problem, steps=20, keep_at=10)
    tensors = {
        "images": problem.images,
        "labels": problem.labels,
        "output": output,
        "loss": F.cross_entropy(output, problem.labels).reshape(1),
        "adam.losses": losses,
    }
    tensors |= prefixed("param.", parameters(problem.model))
    tensors |= prefixed("grad.", gradients) | prefixed("adam.param.", after_10)
    if case.name == "gelu":
        losses, after_100 = stable_adam_run(case, problem, steps=100, keep_at=100)
        tensors |= {"adam100.losses": losses} | prefixed("adam100.param.", after_100)
    return tensors


def check_gradients(case: Case, problem: Problem, gradients: State) -> None:
    """float32 gradients match float64 within a tenth of the tests' tolerance."""
    exact = problem.copy(torch.float64)
    _, expected = checks.gradients(exact.model, exact.images, exact.labels)
    for name in gradients:
        checks.require_close(f"{case.name}: gradient of {name}", gradients[name].double(), expected[name], 1e-5)


def adam_f64_tensors(case: Case) -> State:
    """Everything of one `adam-f64` fixture."""
    problem = make_problem(case, torch.float64)
    losses, after_100 = stable_adam_run(case, problem, steps=100, keep_at=100)
    tensors = {"images": problem.images, "labels": problem.labels, "losses": losses}
    return tensors | prefixed("param.", parameters(problem.model)) | prefixed("final.", after_100)


def mnist_20_steps(preset: str, batches: list[tuple[Tensor, Tensor]], out: Path) -> None:
    """PyTorch's own state_dict of a new model, and the losses of Adam's first 20 steps from there."""
    torch.manual_seed(0)
    model = shallow_model.set_dropout(shallow_model.seed_style(preset), 0.0)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    optimizer = Optimizer()
    losses = train(model, optimizer.build(model), batches)
    check_mnist_losses(preset, state, batches, losses)
    recipe = {
        "preset": preset,
        "initialisation": "PyTorch's defaults after torch.manual_seed(0)",
        "data": "MNIST's training images in file order",
        "scaling": "(x / 255 - 0.5) / 0.5",
        "batch_size": 64,
        "dropout": 0.0,
        "dtype": "float32",
        "optimizer": asdict(optimizer),
        "torch": torch.__version__.split("+")[0],
    }
    write(out / f"{preset}.safetensors", state, {})
    text = json.dumps({"losses": losses, "recipe": recipe}, indent=2)
    (out / f"{preset}.json").write_text(text + "\n")


def check_mnist_losses(preset: str, state: State, batches: list[tuple[Tensor, Tensor]], losses: list[float]) -> None:
    """`vit` in float64 gives the same losses within a tenth of the tests' tolerance."""
    config = vit.PRESETS[preset]
    model = vit.VisionTransformer(config)
    model.load_state_dict(native_from_notebook(state, config), strict=True)
    model.double()
    double = [(images.double(), labels) for images, labels in batches]
    expected = train(model, Optimizer().build(model), double)
    difference = max(abs(a - b) / b for a, b in zip(losses, expected, strict=True))
    print(f"  {preset}: 20 steps on MNIST drift by {difference:.1e} (loss)")
    if difference > F32_LOSS:
        raise AssertionError(f"{preset}: losses on MNIST depend on rounding")


def write(path: Path, tensors: State, metadata: dict[str, Any]) -> None:
    """A safetensors file, the same bytes each time; labels as uint8, metadata as JSON texts."""
    tensors = {name: (t if t.is_floating_point() else t.to(torch.uint8)).contiguous() for name, t in tensors.items()}
    texts = {key: json.dumps(value) for key, value in metadata.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(order_metadata(safetensors.torch.save(tensors, texts or None)))


def order_metadata(data: bytes) -> bytes:
    """The same file with its metadata keys sorted; safetensors writes them in an order that changes from run to run."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    if "__metadata__" in header:
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode().ljust(length)
    if len(text) != length:
        raise AssertionError(f"header of {len(text)} bytes, expected {length} as safetensors wrote it")
    return data[:8] + text + data[8 + length :]


def make_all(out: Path, mnist_folder: Path | None) -> None:
    """Every fixture, after the reference's own checks."""
    checks.check_all()
    print("agreement")
    for case in AGREEMENT:
        write(out / "agreement" / f"{case.name}.safetensors", agreement_tensors(case), {"config": case.config.to_dict()})
    print("adam-f64")
    for case in ADAM_F64:
        metadata = {"config": case.config.to_dict(), "optimizer": asdict(case.optimizer)}
        write(out / "adam-f64" / f"{case.name}.safetensors", adam_f64_tensors(case), metadata)
    if mnist_folder is None:
        print("mnist-20-steps left as it is: no --mnist")
        return
    print("mnist-20-steps")
    images, labels = mnist.load(mnist_folder, "train", count=20 * 64)
    batches = list(zip(images.split(64), labels.split(64), strict=True))
    for preset in vit.PRESETS:
        mnist_20_steps(preset, batches, out / "mnist-20-steps")


def sizes(out: Path) -> Iterator[str]:
    """A line for each fixture, and their sum."""
    files = sorted(path for path in out.rglob("*") if path.is_file())
    for path in files:
        yield f"{path.stat().st_size:>9,}  {path.relative_to(out)}"
    yield f"{sum(path.stat().st_size for path in files):>9,}  bytes in all"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mnist", type=Path, help="folder of the four IDX files, gzipped or not")
    parser.add_argument("--out", type=Path, default=FIXTURES)
    args = parser.parse_args()
    torch.set_num_threads(1)
    make_all(args.out, args.mnist)
    print("\n".join(sizes(args.out)))


if __name__ == "__main__":
    main()
