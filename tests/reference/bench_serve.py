"""Compare `vit serve` with FastAPI on uvicorn, with the same model and picture: latency, requests/s, memory.

    python tests/reference/bench_serve.py --vit target/debug/vit --run RUN [--requests 1000000]

The peer is a typical service: FastAPI, uvloop, httptools, two workers, one torch thread each, Pillow for the PNG, and the model of
`shallow_model.py` with the run's parameters. It needs `fastapi`, `uvicorn[standard]`, `torch`, `safetensors`, `pillow`, and Debian's
`wrk`. The same clients measure both, one after the other, on the same machine.
"""

import argparse
import http.client
import json
import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
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


def one_client(port: int, picture: bytes, seconds: float) -> list[float]:
    """Microseconds of each request, sent one after another on a connection."""
    head = f"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\nContent-Length: {len(picture)}\r\n\r\n"
    request = head.encode() + picture
    stream = socket.create_connection(("127.0.0.1", port))
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    times, begun = [], time.perf_counter()
    while time.perf_counter() - begun < seconds:
        since = time.perf_counter()
        stream.sendall(request)
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += stream.recv(65536)
        length = int(re.search(rb"(?i)content-length: (\d+)", answer)[1])
        missing = length - (len(answer) - answer.index(b"\r\n\r\n") - 4)
        while missing > 0:
            missing -= len(stream.recv(missing))
        times.append(1e6 * (time.perf_counter() - since))
        assert answer.startswith(b"HTTP/1.1 200")
    return times[len(times) // 10 :]


def wrk(port: int, script: str, connections: int, seconds: int) -> dict:
    """wrk's result: requests/s and the latencies under that load."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", "-s", script, f"http://127.0.0.1:{port}/v1/predict"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    rate = float(re.search(r"Requests/sec:\s+([\d.]+)", said)[1])
    p99 = re.search(r"99%\s+([\d.]+)(us|ms|s)", said)
    p99 = float(p99[1]) * {"us": 1e-3, "ms": 1, "s": 1e3}[p99[2]]
    assert "Non-2xx" not in said, said
    return {"requests_per_second": rate, "p99_ms": p99}


def at_half(port: int, script: str, folder: str, seconds: int, rate: float) -> dict:
    """wrk at about half of a rate: each of 32 connections waits whole milliseconds between an answer and the next request."""
    pause = max(1, round(1e3 * 32 / (rate / 2)))
    paced = Path(folder) / "paced.lua"
    paced.write_text(Path(script).read_text() + f"function delay() return {pause} end\n")
    load = wrk(port, str(paced), 32, seconds)
    return {"half": load["requests_per_second"], "p99_at_half_ms": load["p99_ms"]}


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


def measure(name: str, process: subprocess.Popen, port: int, arguments, picture: Path, script: str) -> dict:
    bytes_ = picture.read_bytes()
    one_client(port, bytes_, 1)
    rounds = [statistics.median(one_client(port, bytes_, arguments.seconds)) for _ in range(3)]
    result = {"p50_us": statistics.median(rounds)}
    load = wrk(port, script, 32, arguments.seconds)
    result |= load
    result |= at_half(port, script, str(Path(script).parent), arguments.seconds, load["requests_per_second"])
    result["memory_mb"] = memory(children(process.pid))
    print(name, json.dumps(result), flush=True)
    return result


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vit", type=Path, required=True)
    parser.add_argument("--run", type=Path, required=True, help="a run of `shallow`")
    parser.add_argument("--picture", type=Path, default=Path("docs/pictures/digit.png"))
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=0, help="measure the memory after this many requests")
    arguments = parser.parse_args()
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "app.py").write_text(APP)
        script = str(Path(folder) / "post.lua")
        Path(script).write_text(SCRIPT % arguments.picture.resolve())
        ours = subprocess.Popen([arguments.vit, "serve", arguments.run], stdout=subprocess.PIPE, text=True)
        port = int(re.search(r":(\d+)/", ours.stdout.readline())[1])
        results["vit"] = measure("vit serve", ours, port, arguments, arguments.picture, script)
        if arguments.requests:
            rate = results["vit"]["requests_per_second"]
            wrk(port, script, 32, max(1, int(arguments.requests / rate)))
            results["vit"]["memory_later_mb"] = memory([ours.pid])
            print("after", arguments.requests, "requests:", results["vit"]["memory_later_mb"], "MB", flush=True)
        ours.terminate()
        ours.wait()
        environment = os.environ | {"MODEL": str(arguments.run.resolve() / "model.safetensors")}
        command = [sys.executable, "-m", "uvicorn", "app:app", "--workers", "2", "--loop", "uvloop", "--http", "httptools",
                   "--port", "8321", "--no-access-log", "--log-level", "warning"]
        peer = subprocess.Popen(command, cwd=folder, env=environment)
        try:
            wait_for(8321)
            time.sleep(3)
            results["fastapi"] = measure("FastAPI", peer, 8321, arguments, arguments.picture, script)
        finally:
            peer.terminate()
            peer.wait()
    ours, peer = results["vit"], results["fastapi"]
    print(f"p50 {peer['p50_us'] / ours['p50_us']:.1f} x, requests a second {ours['requests_per_second'] / peer['requests_per_second']:.1f} x")


if __name__ == "__main__":
    main()
