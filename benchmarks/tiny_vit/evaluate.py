"""How good is tiny-vit? kNN and linear accuracy on images that it never saw.

Six feature extractors on the same pixels (160 px), from nothing to the teacher:

    random                   tiny-vit's architecture, all of it untrained
    stem + random blocks     the pretrained stem, everything above it untrained
    stem alone               mean of the stem's map (112 channels)
    tiny-vit                 the packaged weights: CLS, and mean of the patch tokens
    trained again            --weights of another run of distil.py, likewise
    teacher                  EfficientNet-Lite0, pooled

kNN: k = 20, cosine, votes weighted by exp(similarity / 0.07). Linear: logistic regression, its C chosen on
30 % of the training part. No test image takes part in any choice.

    python benchmarks/tiny_vit/evaluate.py CACHE FASHION [--weights OUT/model.safetensors] > benchmarks/tiny_vit/results.jsonl

FASHION is the folder that benchmarks/fashion_mnist.py wrote.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from cache import ROOT, settings, teacher
from PIL import Image
from safetensors.torch import load_file
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from petiole.backbones.bundled.tiny_vit import WEIGHTS, architecture
from petiole.data.preprocessing import Preprocessing, evaluate_transform

FOLDERS = {
    "caltech-train": "caltech101_128/train",
    "caltech-test": "caltech101_128/test",
    "clothing-train": "clothing128/train",
    "clothing-test": "clothing128/test",
    "photo": "pacs_sketch_photo/photo",
    "sketch": "pacs_sketch_photo/sketch",
}
HALF = Preprocessing(
    size=(160, 160), crop=1.0, interpolation="bicubic", mean=(0.5,) * 3, std=(0.5,) * 3
)
Features = dict[str, np.ndarray]
Draw = tuple[np.ndarray, np.ndarray]


def folders(fashion: Path) -> dict[str, Path | None]:
    """Every set and where its class folders lie; scikit-learn's digits need none."""
    shared = {name: ROOT / "../shared/data" / folder for name, folder in FOLDERS.items()}
    parts = {f"fashion-{part}": fashion / part for part in ("train", "test")}
    return {"digits": None, **shared, **parts}


def pictures(folder: Path | None) -> tuple[list[Image.Image], np.ndarray]:
    if folder is None:
        digits = load_digits()
        pixels = np.round(digits.images * 255 / 16).astype(np.uint8)
        return [Image.fromarray(p).convert("RGB") for p in pixels], digits.target
    files = sorted(folder.glob("*/*"))
    if not files:
        raise SystemExit(f"no images in {folder}")
    classes = sorted({f.parent.name for f in files})
    labels = np.array([classes.index(f.parent.name) for f in files])
    return [Image.open(f).convert("RGB") for f in files], labels


@torch.inference_mode()
def frozen(name: str, folder: Path | None, cache: Path) -> Features:
    """What does not depend on the trained blocks: stem maps, teacher, random twin. Kept in `cache`."""
    file = cache / f"{name}.npz"
    if not file.exists():
        images, labels = pictures(folder)
        vit, model = loaded(WEIGHTS), teacher(ROOT / settings()["teacher"])
        model.reset_classifier(0)
        twin, parts = untrained(), {"maps": [], "teacher": [], "random": []}
        transform = evaluate_transform(HALF)
        for i in range(0, len(images), 32):
            batch = torch.stack([transform(image) for image in images[i : i + 32]])
            batch = batch.contiguous(memory_format=torch.channels_last)
            parts["maps"].append(vit.patch_embed.features(batch).contiguous().half().numpy())
            parts["teacher"].append(model(batch).numpy())
            parts["random"].append(twin(batch).numpy())
        cache.mkdir(parents=True, exist_ok=True)
        np.savez(file, labels=labels, **{k: np.concatenate(v) for k, v in parts.items()})
        print(f"{name}: {len(images)} images", flush=True)
    with np.load(file) as stored:
        return dict(stored)


def loaded(file: Path) -> VisionTransformer:
    vit = architecture().eval()
    vit.load_state_dict(load_file(file), strict=True)
    return vit


def untrained() -> VisionTransformer:
    torch.manual_seed(0)
    return architecture().eval()


@torch.inference_mode()
def features(
    name: str, folder: Path | None, cache: Path, files: dict[str, Path]
) -> tuple[Features, np.ndarray]:
    """All extractors on one set of images: {extractor: (N, D)}, labels (N,); ``files`` hold trained weights by name."""
    known = frozen(name, folder, cache)
    trained, twin = {model: loaded(file) for model, file in files.items()}, untrained()
    found: dict[str, list[np.ndarray]] = {}
    for rows in torch.from_numpy(known["maps"]).split(256):
        maps = rows.float()
        part = {
            "stem + random blocks": above_stem(twin, maps)[:, 0],
            "stem alone": maps.mean((2, 3)),
        }
        for model, vit in trained.items():
            tokens = above_stem(vit, maps)
            part |= {f"{model}, CLS": tokens[:, 0], f"{model}, patch mean": tokens[:, 1:].mean(1)}
        for key, value in part.items():
            found.setdefault(key, []).append(value.numpy())
    joined = {key: np.concatenate(value) for key, value in found.items()}
    return {"random": known["random"], **joined, "teacher": known["teacher"]}, known["labels"]


def above_stem(vit: VisionTransformer, maps: Tensor) -> Tensor:
    tokens: Tensor = vit._pos_embed(vit.patch_embed.tokens(maps))
    return vit.norm(vit.blocks(tokens))


def knn(train: np.ndarray, y: np.ndarray, test: np.ndarray, z: np.ndarray) -> float:
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (train, test)]
    similarity = unit[1] @ unit[0].T
    nearest = np.argsort(-similarity, axis=1)[:, :20]
    votes = np.exp(np.take_along_axis(similarity, nearest, 1) / 0.07)
    scores = np.stack([(votes * (y[nearest] == c)).sum(1) for c in range(y.max() + 1)], 1)
    return float((scores.argmax(1) == z).mean())


def linear(train: np.ndarray, y: np.ndarray, test: np.ndarray, z: np.ndarray) -> float:
    mean, scale = train.mean(0), train.std()
    train, test = (train - mean) / scale, (test - mean) / scale
    fit, choose, yfit, ychoose = train_test_split(
        train, y, test_size=0.3, random_state=0, stratify=y
    )
    strengths = (0.003, 0.03, 0.3, 3.0)
    scores = [regression(c).fit(fit, yfit).score(choose, ychoose) for c in strengths]
    return float(regression(strengths[int(np.argmax(scores))]).fit(train, y).score(test, z))


def regression(strength: float) -> LogisticRegression:
    return LogisticRegression(C=strength, max_iter=200, tol=1e-3)


def shots(labels: np.ndarray, count: int, seed: int) -> Draw:
    rng = np.random.default_rng(seed)
    chosen = [rng.permutation(np.flatnonzero(labels == c))[:count] for c in np.unique(labels)]
    train = np.concatenate(chosen)
    return train, np.setdiff1d(np.arange(len(labels)), train)


def halves(labels: np.ndarray, seed: int) -> Draw:
    train, test = train_test_split(
        np.arange(len(labels)), test_size=0.5, random_state=seed, stratify=labels
    )
    return train, test


def within(x: np.ndarray, y: np.ndarray, draws: list[Draw]) -> Iterator[tuple]:
    for train, test in draws:
        yield x[train], y[train], x[test], y[test]


def tasks(sets: dict[str, tuple[Features, np.ndarray]], model: str) -> dict[str, list[tuple]]:
    def pair(a: str, b: str) -> list[tuple]:
        return [(sets[a][0][model], sets[a][1], sets[b][0][model], sets[b][1])]

    digits, photo = sets["digits"], sets["photo"]
    fashion, held = sets["fashion-train"], sets["fashion-test"]
    few = [shots(digits[1], 10, s) for s in range(5)]
    half = [halves(digits[1], s) for s in range(5)]
    photos = [halves(photo[1], s) for s in range(5)]
    return {
        "digits, 10 shots": list(within(digits[0][model], digits[1], few)),
        "digits, half": list(within(digits[0][model], digits[1], half)),
        "Fashion-MNIST, 10 shots": [
            (fashion[0][model][train], fashion[1][train], held[0][model], held[1])
            for train, _ in (shots(fashion[1], 10, s) for s in range(5))
        ],
        "Caltech-101": pair("caltech-train", "caltech-test"),
        "clothing": pair("clothing-train", "clothing-test"),
        "PACS photo, half": list(within(photo[0][model], photo[1], photos)),
        "PACS sketch to photo": pair("sketch", "photo"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cache", type=Path, help="folder for features (about 400 MB)")
    parser.add_argument("fashion", type=Path, help="folder that fashion_mnist.py wrote")
    parser.add_argument("--weights", type=Path, help="of another run of distil.py")
    parser.add_argument("--only-frozen", action="store_true", help="fill the cache and stop")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.only_frozen:
        for name, folder in folders(args.fashion).items():
            frozen(name, folder, args.cache)
        return
    files = {"tiny-vit": WEIGHTS} | ({"trained again": args.weights} if args.weights else {})
    sets = {
        name: features(name, folder, args.cache, files)
        for name, folder in folders(args.fashion).items()
    }
    for model in sets["digits"][0]:
        for task, draws in tasks(sets, model).items():
            for measure in (knn, linear):
                scores = [measure(*draw) for draw in draws]
                row = {"features": model, "task": task, "measure": measure.__name__}
                row |= {"mean": round(float(np.mean(scores)), 4), "draws": len(scores)}
                row |= {"sd": round(float(np.std(scores, ddof=1)), 4)} if len(scores) > 1 else {}
                print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
