"""Time onnxruntime on our export and on PyTorch's export of the same model, beside our own forward pass.

    python bench_onnx.py VIT [--threads N] [--rounds N] [--seconds F]

VIT is the binary. The contestants take turns, so that other work on the machine affects all of them; each figure is the median of the
turns' medians. Prints the processor's name and a line of JSON for each model and batch size, times in milliseconds.
"""

import argparse
import io
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import safetensors.torch
import torch
from torch import nn

import vit as reference
from check_interchange import Vit

BATCHES = (1, 64)


def session(graph: bytes, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def exported_by_pytorch(model: nn.Module, images: torch.Tensor) -> bytes:
    """PyTorch's own exporter, with a dynamic batch size."""
    file = io.BytesIO()
    batch = {0: torch.export.Dim("batch", min=1, max=1024)}
    torch.onnx.export(model.eval(), (images,), file, dynamo=True, dynamic_shapes=(batch,), opset_version=18)
    return file.getvalue()


def models(vit: Vit) -> dict[str, tuple[bytes, bytes, tuple[int, int, int]]]:
    """For each model: our export, PyTorch's, and an image's shape."""
    import timm

    vit.run("train", "--dataset", "digits", "--max-steps", "2", "--run-dir", "shallow")
    vit.run("export", "shallow", "--layout", "onnx", "-o", "shallow.onnx")
    shallow = reference.VisionTransformer(reference.SHALLOW)
    state = safetensors.torch.load_file(vit.folder / "shallow" / "model.safetensors")
    shallow.load_state_dict(state, strict=True)

    tiny = timm.create_model("vit_tiny_patch16_224").eval()
    safetensors.torch.save_file(tiny.state_dict(), vit.folder / "timm.safetensors")
    vit.run("import", "timm.safetensors", "-o", "vit-ti16.safetensors")
    vit.run("export", "vit-ti16.safetensors", "--layout", "onnx", "-o", "vit-ti16.onnx")
    return {
        name: ((vit.folder / f"{name}.onnx").read_bytes(), exported_by_pytorch(model, torch.zeros(2, *shape)), shape)
        for name, model, shape in [("shallow", shallow, (1, 28, 28)), ("vit-ti16", tiny, (3, 224, 224))]
    }


def timed(run: Callable[[], object], seconds: float) -> float:
    """Median time of a pass in milliseconds, over as many as fit the time."""
    for _ in range(2):
        run()
    times, end = [], time.perf_counter() + seconds
    while not times or time.perf_counter() < end:
        begun = time.perf_counter()
        run()
        times.append(1e3 * (time.perf_counter() - begun))
    return statistics.median(times)


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("vit", type=Path)
    parser.add_argument("--prepare", type=Path, help="only write the graphs into this folder")
    parser.add_argument("--graphs", type=Path, help="the folder of an earlier --prepare")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="threads of each contestant [default: all cores]")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each contestant")
    parser.add_argument("--seconds", type=float, default=0.7, help="minimum length of a turn")
    args = parser.parse_args()
    if args.prepare:
        args.prepare.mkdir(parents=True, exist_ok=True)
        for name, (ours, theirs, _) in models(Vit(args.vit, args.prepare)).items():
            (args.prepare / f"{name}.onnx").write_bytes(ours)
            (args.prepare / f"{name}-pytorch.onnx").write_bytes(theirs)
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.graphs or Path(scratch)
        vit = Vit(args.vit, folder)
        if not args.graphs:
            for name, (ours, theirs, _) in models(vit).items():
                (folder / f"{name}-pytorch.onnx").write_bytes(theirs)
        machine = {"processor": processor(), "threads": args.threads, "onnxruntime": onnxruntime.__version__}
        print(json.dumps(machine), flush=True)
        for name, shape in {"shallow": (1, 28, 28), "vit-ti16": (3, 224, 224)}.items():
            graphs = {"ours": f"{name}.onnx", "pytorch": f"{name}-pytorch.onnx"}
            sessions = {kind: session((folder / file).read_bytes(), args.threads) for kind, file in graphs.items()}
            for batch in BATCHES:
                measure(vit, name, batch, sessions, shape, args)


def measure(vit, name: str, batch: int, sessions: dict, shape: tuple, args: argparse.Namespace) -> None:
    """Times one model at one batch size, and prints its line."""
    images = np.random.default_rng(0).standard_normal((batch, *shape)).astype(np.float32)
    feeds = {kind: {session.get_inputs()[0].name: images} for kind, session in sessions.items()}
    outputs = [sessions[kind].run(None, feeds[kind])[0] for kind in sessions]
    difference = float(np.abs(outputs[0] - outputs[1]).max())
    if not difference <= 1e-4:
        raise AssertionError(f"{name}: the two exports differ by {difference:.1e}")
    turns: dict[str, list[float]] = {"ours": [], "pytorch": [], "native": []}
    guess = None
    for _ in range(args.rounds):
        for kind in sessions:
            turns[kind].append(timed(lambda kind=kind: sessions[kind].run(None, feeds[kind]), args.seconds))
        guess = guess or turns["ours"][0]
        passes = str(max(3, int(1e3 * args.seconds / guess)))
        model = name if (vit.folder / name).is_dir() else f"{name}.safetensors"
        settings = ["--batch-size", str(batch), "--iterations", passes, "--threads", str(args.threads)]
        told = vit.run("bench", "latency", model, *settings, "--json")
        turns["native"].append(json.loads(told)["median_us"] / 1e3)
    medians = {kind: round(statistics.median(times), 4) for kind, times in turns.items()}
    print(
        json.dumps(
            {
                "model": name,
                "batch": batch,
                "onnxruntime_ours_ms": medians["ours"],
                "onnxruntime_pytorch_export_ms": medians["pytorch"],
                "native_ms": medians["native"],
                "pytorch_export_over_ours": round(medians["pytorch"] / medians["ours"], 3),
                "onnxruntime_over_native": round(medians["ours"] / medians["native"], 3),
                "difference": difference,
            }
        ),
        flush=True,
    )


if __name__ == "__main__":
    main()
