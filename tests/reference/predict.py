"""Classify a picture like `vit predict MODEL IMAGE`, to time a process from start to answer.

    python predict.py MODEL.safetensors IMAGE.png

MODEL is an exported `notebook`-layout file. Prints one JSON object.
"""

import json
import sys

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file

import seed_model


def main() -> None:
    path, picture = sys.argv[1:]
    model = seed_model.VisionTransformer(49, seed_model.n_embd)
    model.load_state_dict(load_file(path))
    model.eval()
    pixels = np.asarray(Image.open(picture).convert("L"), dtype=np.float32)
    image = torch.from_numpy((pixels / 255 - 0.5) / 0.5)
    with torch.inference_mode():
        probabilities = model(image[None, None])[0]
    print(json.dumps({"image": picture, "class": int(probabilities.argmax()), "probability": float(probabilities.max())}))


if __name__ == "__main__":
    main()
