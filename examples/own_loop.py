"""An adapter trained in a loop of one's own: petiole gives a module, the rest is plain torch.

python examples/own_loop.py PHOTOS OUT      PHOTOS: one folder a class
"""

import sys

import torch
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset

import petiole
from petiole.data.image import load as load_image
from petiole.data.inputs import as_dataset


class Pictures(Dataset):
    """Preprocessed images (3, H, W) with their labels."""

    def __init__(self, photos, preprocess) -> None:
        self.photos, self.preprocess = photos, preprocess

    def __len__(self) -> int:
        return len(self.photos)

    def __getitem__(self, i: int):
        sample = self.photos.samples[i]
        return self.preprocess(load_image(sample)), sample.label


def main(folder: str, out: str, epochs: int = 3) -> float:
    """Train, save, open again; returns the accuracy on the training images."""
    torch.manual_seed(0)
    photos = as_dataset(folder)
    backbone = petiole.load("petiole/tiny-vit")
    model = petiole.adapt(backbone, "adaptertune", classes=photos.classes, rank=8)
    pictures = Pictures(photos, model.preprocess)
    optimizer = torch.optim.AdamW(model.trainable_parameters(), lr=3e-3)
    for _ in range(epochs):
        model.train()
        for images, labels in DataLoader(pictures, batch_size=16, shuffle=True):
            loss = cross_entropy(model(images), labels)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    model.eval().save(out)

    again = petiole.load_adapter(out)
    rows = again.predict([sample.path for sample in photos.samples])
    named = [photos.classes[sample.label] for sample in photos.samples]
    return sum(row.label == name for row, name in zip(rows, named, strict=True)) / len(rows)


if __name__ == "__main__":
    print(f"{100 * main(*sys.argv[1:3]):.1f} % of the training images are right")
