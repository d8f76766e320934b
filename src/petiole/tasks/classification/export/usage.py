"""The script that labels images with an exported model, without Petiole."""

from __future__ import annotations

from petiole.tasks.classification.export.format import Format

SCRIPT = '''"""Labels images with the model beside this file.

    pip install {needs}
    python predict.py IMAGE...
"""

import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

HERE = Path(__file__).resolve().parent
ABOUT = json.loads((HERE / "export.json").read_text(encoding="utf-8"))

{opening}

{reading}

def label(file):
    """Class -> probability, most probable first."""
    z = logits(read(file)[None])[0] / (ABOUT["calibration"] or {{"temperature": 1.0}})["temperature"]
    p = np.exp(z - z.max())
    p = p / p.sum()
    return {{ABOUT["classes"][i]: float(p[i]) for i in np.argsort(-p)}}


if __name__ == "__main__":
    for file in sys.argv[1:]:
        print(file, *(f"{{name}} {{p:.3f}}" for name, p in list(label(file).items())[:3]))
'''

RAW = '''
def read(file):
    """(height, width, 3) in uint8; the model does the rest."""
    return np.array(ImageOps.exif_transpose(Image.open(file)).convert("RGB"))
'''

PIXELS = '''
def read(file):
    """(3, height, width) in fp32: resized to cover size / crop, the centre cut out, normalised."""
    stated = ABOUT["preprocessing"]
    image = ImageOps.exif_transpose(Image.open(file)).convert("RGB")
    height, width = stated["size"]
    tall, wide = (int(side / stated["crop"]) for side in stated["size"])
    size = max(wide, tall * image.width // image.height), max(tall, wide * image.height // image.width)
    image = image.resize(size, Image.Resampling[stated["interpolation"].upper()])
    left, top = round((size[0] - width) / 2), round((size[1] - height) / 2)
    pixels = np.array(image.crop((left, top, left + width, top + height)), np.float32) / 255
    return ((pixels - np.float32(stated["mean"])) / np.float32(stated["std"])).transpose(2, 0, 1)
'''


def script(chosen: Format) -> str:
    """``predict.py`` of a format; empty where it has none."""
    if not chosen.opening:
        return ""
    needs = " ".join((*chosen.needs, "numpy", "pillow"))
    reading = RAW if chosen.raw else PIXELS
    return SCRIPT.format(needs=needs, opening=chosen.opening, reading=reading)
