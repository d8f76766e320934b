"""The script that labels images with an exported model, without Petiole."""

from __future__ import annotations

from petiole.tasks.classification.export.format import Format

SCRIPT = '''"""Labels images with the model beside this file.

    pip install {needs}
    python predict.py IMAGE...
"""

import base64
import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

HERE = Path(__file__).resolve().parent
ABOUT = json.loads((HERE / "export.json").read_text(encoding="utf-8"))

{opening}

{reading}

def predict(file, coverage=None, abstain_below=None):
    """Label, probabilities, label set (coverage 0.8, 0.9, 0.95 or 0.99), whether the image looks out of distribution, and
    whether to leave it to a person; None for what is not known or was not asked for."""
    known = ABOUT["calibration"]
    logits, vector = (part[0] for part in outputs(read(file)[None]))
    z = logits / (known["temperature"] if known else 1.0)
    p = np.exp(z - z.max())
    p = p / p.sum()
    names = {{ABOUT["classes"][i]: float(p[i]) for i in np.argsort(-p)}}
    best, inside, outside = max(p), None, None
    if known:
        likeness, least = likeness_of(logits, vector, known)
        outside = None if least is None else bool(likeness < least)
        if coverage is not None:
            bound = known["label_sets"][f"{{coverage:g}}"]
            inside = [n for n, q in names.items() if bound is None or 1 - q <= bound or q == best]
    return {{
        "label": next(iter(names)),
        "probability": float(best),
        "probabilities": names,
        "label_set": inside,
        "outside": outside,
        "abstain": None if abstain_below is None else bool(best < abstain_below or outside),
    }}


def likeness_of(logits, vector, known):
    """How like the training images an image looks, and the least that is inside: the cosine of its vector to the nearest
    class mean, or where that is not known the largest logit."""
    novelty = known["novelty"]
    if novelty is None:
        return logits.max(), known["ood_threshold"]
    means = np.frombuffer(base64.b64decode(novelty["means"]), "<f2").reshape(-1, novelty["width"])
    unit = vector[: novelty["width"]] / np.linalg.norm(vector[: novelty["width"]])
    return (means.astype(np.float32) @ unit).max(), novelty["threshold"]


if __name__ == "__main__":
    for file in sys.argv[1:]:
        said = predict(file)
        shown = [f"{{name}} {{p:.3f}}" for name, p in list(said["probabilities"].items())[:3]]
        print(file, *shown, *["out of distribution"] * bool(said["outside"]))
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
