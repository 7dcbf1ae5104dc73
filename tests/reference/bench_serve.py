"""Compare `vit serve` with FastAPI on uvicorn, with the same model and picture: latency, requests/s, memory.

    python tests/reference/bench_serve.py --vit target/debug/vit --run RUN [--requests 1000000] [--epochs 6]

The peer is a typical service: FastAPI, uvloop, httptools, two workers, one torch thread each, Pillow for the PNG, and the model of
`shallow_model.py` with the run's parameters. It needs `fastapi`, `uvicorn[standard]`, `torch`, `safetensors`, `pillow`, and Debian's
`wrk`. Both servers run at the same time; the same client on the same machine loads them in turn. Results are medians of the rounds.
"""

import argparse
import http.client
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

APP = '''
import io, os
import numpy, torch
from fastapi import FastAPI, Request
from PIL import Image
from safetensors.torch import load_file

torch.set_num_threads(1)
P = load_file(os.environ["MODEL"])
HEADS, DEPTH = 4, 3

@torch.inference_mode()
def forward(x):
    batch = x.shape[0]
    x = x.reshape(batch, 4, 7, 4, 7).transpose(2, 3).reshape(batch, 16, 49)
    x = torch.nn.functional.linear(x, P["patch_embed.proj.weight"].reshape(32, 49), P["patch_embed.proj.bias"]) + P["pos_embed"]
    norm = lambda x, name: torch.nn.functional.layer_norm(x, (32,), P[name + ".weight"], P[name + ".bias"], 1e-5)
    linear = lambda x, name: torch.nn.functional.linear(x, P[name + ".weight"], P.get(name + ".bias"))
    for i in range(DEPTH):
        b = f"blocks.{i}"
        q, k, v = linear(norm(x, b + ".norm1"), b + ".attn.qkv").reshape(batch, 16, 3, HEADS, 8).permute(2, 0, 3, 1, 4)
        y = torch.nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, 16, 32)
        x = x + linear(y, b + ".attn.proj")
        x = x + linear(torch.relu(linear(norm(x, b + ".norm2"), b + ".mlp.fc1")), b + ".mlp.fc2")
    return linear(norm(x, "norm")[:, 0], "head").softmax(-1)

app = FastAPI()

@app.post("/v1/predict")
async def predict(request: Request):
    image = Image.open(io.BytesIO(await request.body())).convert("L")
    pixels = torch.from_numpy(numpy.asarray(image, dtype=numpy.float32)) / 127.5 - 1
    row = forward(pixels[None])[0]
    best = int(row.argmax())
    return {"class": best, "probability": float(row[best]), "probabilities": row.tolist()}
'''

SCRIPT = '''
wrk.method = "POST"
local file = io.open("%s", "rb")
wrk.body = file:read("*a")
wrk.headers["Content-Type"] = "image/png"
'''


def wrk(port: int, script: str, connections: int, seconds: int) -> dict:
    """wrk's result: requests/s, and latencies in milliseconds under that load."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", "-s", script, f"http://127.0.0.1:{port}/v1/predict"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "Non-2xx" not in said and "Socket errors" not in said, said
    units = {"us": 1e-3, "ms": 1, "s": 1e3}
    of = {share: re.search(rf"{share}%\s+([\d.]+)(us|ms|s)", said) for share in (50, 99)}
    p50, p99 = (float(found[1]) * units[found[2]] for found in of.values())
    return {"rate": float(re.search(r"Requests/sec:\s+([\d.]+)", said)[1]), "p50": p50, "p99": p99}


def at_half(port: int, script: str, rate: float, seconds: int) -> dict:
    """wrk at about half of a rate: each of 32 connections waits whole milliseconds between an answer and the next request."""
    pause = max(1, round(1e3 * 32 / (rate / 2)))
    paced = Path(script).with_name("paced.lua")
    paced.write_text(Path(script).read_text() + f"function delay() return {pause} end\n")
    return wrk(port, str(paced), 32, seconds)


def memory(pids: list[int]) -> float:
    """Resident megabytes."""
    lines = [line for pid in pids for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS")]
    return sum(int(line.split()[1]) for line in lines) / 1024


def children(pid: int) -> list[int]:
    found = [pid]
    for task in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = task.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            found += children(int(task.parent.name))
    return found


def measure(port: int, script: str, seconds: int) -> dict:
    one = wrk(port, script, 1, seconds)
    many = wrk(port, script, 32, seconds)
    half = at_half(port, script, many["rate"], seconds)
    return {"p50_ms": one["p50"], "requests_per_second": many["rate"], "half_rate": half["rate"], "p99_ms_at_half": half["p99"]}


def wait_for(port: int) -> None:
    for _ in range(600):
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port)
            connection.request("GET", "/healthz")
            connection.getresponse().read()
            return
        except OSError:
            time.sleep(0.1)
    sys.exit("the server does not start")


def serve(arguments, folder: str, script: str) -> dict:
    environment = os.environ | {"MODEL": str(arguments.run.resolve() / "model.safetensors")}
    command = [sys.executable, "-m", "uvicorn", "app:app", "--workers", "2", "--loop", "uvloop", "--http", "httptools",
               "--port", "8321", "--no-access-log", "--log-level", "warning"]
    ours = subprocess.Popen([arguments.vit, "serve", arguments.run], stdout=subprocess.PIPE, text=True)
    peer = subprocess.Popen(command, cwd=folder, env=environment)
    try:
        servers = {"vit serve": (ours, int(re.search(r":(\d+)/", ours.stdout.readline())[1])), "FastAPI": (peer, 8321)}
        wait_for(8321)
        time.sleep(3)
        for _, port in servers.values():
            wrk(port, script, 4, 2)
        rounds = {name: [] for name in servers}
        for _ in range(arguments.rounds):
            for name, (_, port) in servers.items():
                rounds[name].append(measure(port, script, arguments.seconds))
                print(name, json.dumps(rounds[name][-1]), flush=True)
        results = {name: {key: statistics.median(each[key] for each in of) for key in of[0]} for name, of in rounds.items()}
        for name, (process, _) in servers.items():
            results[name]["memory_mb"] = memory(children(process.pid))
        if arguments.requests:
            port, rate = servers["vit serve"][1], results["vit serve"]["requests_per_second"]
            wrk(port, script, 32, max(1, round(arguments.requests / rate)))
            results["vit serve"] |= {"requests": arguments.requests, "memory_later_mb": memory([ours.pid])}
    finally:
        for process in (ours, peer):
            process.terminate()
            process.wait()
    ours, peer = results["vit serve"], results["FastAPI"]
    print(f"p50 {peer['p50_ms'] / ours['p50_ms']:.1f} x, requests a second {ours['requests_per_second'] / peer['requests_per_second']:.1f} x")
    return results


def watch(address: str) -> None:
    """Reads a run's events as a page does, to their end."""
    try:
        for _ in urllib.request.urlopen(address + "v1/events"):
            pass
    except OSError:
        pass


def side_seconds(run: subprocess.Popen) -> float:
    """CPU seconds of a run's threads other than those that train: its server's, and ended ones, such as those that copy models."""
    others = 0.0
    tick = os.sysconf("SC_CLK_TCK")

    def seconds(stat: Path) -> tuple[str, float]:
        name, fields = stat.read_text().split("(", 1)[1].rsplit(")", 1)
        return name, sum(map(int, fields.split()[11:13])) / tick

    while run.poll() is None:
        try:
            threads = [seconds(stat) for stat in Path(f"/proc/{run.pid}/task").glob("*/stat")]
            # While the process ends, its time is still there but its threads are gone.
            if any(name == "shard-0" for name, _ in threads):
                others = seconds(Path(f"/proc/{run.pid}/stat"))[1] - sum(of for name, of in threads if name != "server")
        except OSError:
            pass
        time.sleep(0.1)
    return others


def train(arguments, folder: Path, kind: str) -> dict[str, float]:
    """Median images/s of the epochs after the first, the CPU seconds of the whole command, and those beside training."""
    command = [arguments.vit, "train", "--dataset", "mnist", "--epochs", str(arguments.epochs), "--run-dir", folder]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    if kind != "alone":
        command.append("--serve")
    run = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    def read() -> None:
        for line in run.stderr:
            found = re.search(r"watch the run at (\S+)", line)
            if found and kind == "watched":
                threading.Thread(target=watch, args=[found[1]], daemon=True).start()

    threading.Thread(target=read, daemon=True).start()
    side = side_seconds(run)
    assert run.wait() == 0
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    records = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    rate = statistics.median(each["images_per_second"] for each in records if each["kind"] == "epoch" and each["epoch"] > 1)
    return {"rate": rate, "cpu": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, "side": side}


def train_served(arguments, folder: str) -> dict:
    turns = {kind: [] for kind in ("alone", "served", "watched")}
    for turn in range(arguments.rounds):
        for kind, of in turns.items():
            of.append(train(arguments, Path(folder) / f"{kind}-{turn}", kind))
    results = {}
    for kind in ("served", "watched"):
        rounds = list(zip(turns["alone"], turns[kind]))
        slower = statistics.median(1 - served["rate"] / alone["rate"] for alone, served in rounds)
        more = statistics.median(served["cpu"] / alone["cpu"] - 1 for alone, served in rounds)
        side = statistics.median((served["side"] - alone["side"]) / alone["cpu"] for alone, served in rounds)
        print(f"vit train --serve, {kind}: {100 * slower:.1f} % slower, {100 * more:.1f} % more CPU time, "
              f"{100 * side:.2f} % beside training, medians of the rounds")
        results[kind] = {"slower": slower, "more_cpu": more, "side": side}
    return {"turns": turns, **results}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vit", type=Path, required=True)
    parser.add_argument("--run", type=Path, required=True, help="a run of `shallow`")
    parser.add_argument("--picture", type=Path, default=Path("docs/pictures/digit.png"), help="of 28x28 pixels")
    parser.add_argument("--seconds", type=int, default=5, help="of each load")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=0, help="measure the memory again after this many requests")
    parser.add_argument("--epochs", type=int, default=0, help="also compare `vit train --serve` with `vit train`, for this many epochs of MNIST")
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "app.py").write_text(APP)
        script = Path(folder) / "post.lua"
        script.write_text(SCRIPT % arguments.picture.resolve())
        results = serve(arguments, folder, str(script))
        if arguments.epochs:
            results["train"] = train_served(arguments, folder)
    print(json.dumps(results, indent=1))
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
