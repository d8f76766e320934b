"""An adapter trained under Lightning Fabric, which brings devices, precision and processes to one's own loop.

pip install lightning-fabric; python examples/fabric.py PHOTOS OUT
"""

import sys

import torch
from lightning_fabric import Fabric
from own_loop import Pictures
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

import petiole
from petiole.data.inputs import as_dataset


def main(folder: str, out: str, epochs: int = 3) -> float:
    """Train and save; returns the loss of the last step."""
    fabric = Fabric(accelerator="auto", devices=1)
    fabric.seed_everything(0, verbose=False)
    photos = as_dataset(folder)
    adapted = petiole.adapt(petiole.load("petiole/tiny-vit"), "ssf", classes=photos.classes)
    optimizer = torch.optim.AdamW(adapted.trainable_parameters(), lr=3e-3)
    model, optimizer = fabric.setup(adapted, optimizer)
    pictures = Pictures(photos, adapted.preprocess)
    loader = fabric.setup_dataloaders(DataLoader(pictures, batch_size=16, shuffle=True))
    loss = torch.zeros(())
    for _ in range(epochs):
        for images, labels in loader:
            loss = cross_entropy(model(images), labels)
            fabric.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
    adapted.eval().save(out)
    return float(loss.detach())


if __name__ == "__main__":
    print(f"loss {main(*sys.argv[1:3]):.3f}")
