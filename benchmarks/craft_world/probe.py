"""What an encoder knows, whoever reads it: a probe on z answers the domain's questions (hypothesis H8, context only).

    OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE python benchmarks/craft_world/probe.py MODELS OUT

A hidden layer of 256 over all 36 tokens and the words of the question, trained on the domain's 2,000 training questions; its answers
are those that occur there. Two encoders: the original, and CRAFT's.
"""

from __future__ import annotations

import argparse
import json
import warnings
from pathlib import Path

import numpy as np
import torch
from run import DOMAINS, A, domain, model
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import StandardScaler

from petiole.methods.base import Changes
from petiole.tasks.codebook.adapter import CodebookAdapter
from petiole.tasks.codebook.images import ImageFolder
from petiole.tasks.codebook.model import AdaptedCodebookModel


def features(adapted: AdaptedCodebookModel, image_folder: ImageFolder, samples: list) -> np.ndarray:
    """(n, 36 * 32 + words): all tokens, and which words the question has."""
    words = adapted.model.tokenizer
    assert words is not None
    names = [s.images[0] for s in samples]
    z = image_folder.vision_outputs(adapted, names)(names).z.flatten(1).numpy()
    questions = np.zeros((len(samples), 256), np.float32)
    for row, sample in zip(questions, samples, strict=True):
        row[words.split(sample.text)] = 1
    return np.concatenate([z, questions], axis=1)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("models", type=Path)
    options.add_argument("out", type=Path)
    options.add_argument("--base", type=int, default=0)
    chosen = options.parse_args()
    warnings.simplefilter("ignore", ConvergenceWarning)
    surrogate = model(chosen.models / f"base{chosen.base}" / A)
    for where in DOMAINS:
        data = domain(chosen.out, where)
        image_folder = ImageFolder(data.root, surrogate.tower)
        folder = chosen.out / f"base{chosen.base}" / where / "craft" / "seed0"
        adapted_models = {
            "original": AdaptedCodebookModel(surrogate, Changes(), Changes()).eval(),
            "craft": CodebookAdapter.load(folder, backbone=surrogate).adapted,
        }
        for name, adapted in adapted_models.items():
            with torch.no_grad():
                parts = [features(adapted, image_folder, list(data[p])) for p in ("train", "test")]
            scaler = StandardScaler().fit(parts[0])
            train, test = map(scaler.transform, parts)
            answers = [[s.references[0] for s in data[p]] for p in ("train", "test")]
            probe = MLPClassifier((256,), max_iter=60, alpha=1e-2, random_state=0)
            probe.fit(train, answers[0])
            right = float(np.mean(probe.predict(test) == np.array(answers[1])))
            print(
                json.dumps({"domain": where, "encoder": name, "right": round(100 * right, 1)}),
                flush=True,
            )


if __name__ == "__main__":
    main()
