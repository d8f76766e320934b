"""A Hugging Face data set in, an adapter and predictions out; the columns are found by their types.

pip install datasets; python examples/hf_datasets.py PHOTOS OUT
"""

import sys
from pathlib import Path

from datasets import ClassLabel, Dataset, Features, Image

import petiole


def pets(folder: str) -> Dataset:
    """Like ``load_dataset("imagefolder", data_dir=folder)["train"]``, without a cache of its own."""
    files = sorted(Path(folder).glob("*/*.*"))
    classes = sorted({file.parent.name for file in files})
    rows = {
        "image": [str(f) for f in files],
        "label": [classes.index(f.parent.name) for f in files],
    }
    return Dataset.from_dict(rows, Features({"image": Image(), "label": ClassLabel(names=classes)}))


def main(folder: str, out: str, steps: int = 100) -> float:
    """Fit, predict and score; returns the accuracy on the images that were held back."""
    data = pets(folder)
    run = petiole.fit(
        data, method="linear-probe", backbone="petiole/tiny-vit", shots=4, out=out,
        settings={"steps": steps, "views": 0}, quiet=True,
    )  # fmt: skip
    for row in run.predict(data.select(range(3))).predictions:
        print(row.label, f"{row.probability:.2f}")
    return run.record["scores"]["test"]["accuracy"]


if __name__ == "__main__":
    print(f"{100 * main(*sys.argv[1:3]):.1f} % of the held-back images are right")
