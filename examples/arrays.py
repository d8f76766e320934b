"""Labelled arrays in, an adapter and predictions out: scikit-learn's digits, no files.

python examples/arrays.py OUT
"""

import sys

import numpy as np
from sklearn.datasets import load_digits

import petiole


def main(out: str, per_class: int = 20) -> float:
    """Fit and predict; returns the accuracy on the images that were held back."""
    digits = load_digits()
    grey = (digits.images * 255 / 16).astype(np.uint8).repeat(7, axis=1).repeat(7, axis=2)
    chosen = np.concatenate([np.flatnonzero(digits.target == k)[:per_class] for k in range(10)])
    images, labels = np.stack([grey] * 3, axis=-1)[chosen], digits.target[chosen]
    run = petiole.fit(
        (images, labels), method="ridge", backbone="petiole/tiny-vit", shots=per_class // 2, out=out,
        quiet=True,
    )  # fmt: skip
    print([row.label for row in run.predict(images[:3]).predictions], "are", labels[:3])
    return run.record["scores"]["test"]["accuracy"]


if __name__ == "__main__":
    print(f"{100 * main(sys.argv[1]):.1f} % of the held-back digits are right")
