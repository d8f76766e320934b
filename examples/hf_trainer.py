"""An adapter trained by Hugging Face's Trainer, which wants a module that returns a loss and logits.

python examples/hf_trainer.py PHOTOS OUT      PHOTOS: one folder a class
"""

import sys
from pathlib import Path

import torch
from own_loop import Pictures
from torch.nn.functional import cross_entropy
from transformers import Trainer, TrainingArguments

import petiole
from petiole.data.inputs import as_dataset


class WithLoss(torch.nn.Module):
    """What the Trainer calls: images and labels in, loss and logits out."""

    def __init__(self, model) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values, labels=None):
        logits = self.model(pixel_values)
        loss = None if labels is None else cross_entropy(logits, labels)
        return {"loss": loss, "logits": logits}


def collate(batch):
    """Pairs of image and label to the keywords of ``WithLoss``."""
    images, labels = zip(*batch, strict=True)
    return {"pixel_values": torch.stack(images), "labels": torch.tensor(labels)}


def main(folder: str, out: str, epochs: float = 3) -> float:
    """Train and save; returns the loss of the last step."""
    photos = as_dataset(folder)
    model = petiole.adapt(
        petiole.load("petiole/tiny-vit"), "lora-qkv", classes=photos.classes, rank=4
    )
    arguments = TrainingArguments(
        output_dir=str(Path(out) / "trainer"), num_train_epochs=epochs, learning_rate=3e-3,
        per_device_train_batch_size=16, logging_steps=1, report_to="none", save_strategy="no",
        use_cpu=not torch.cuda.is_available(), disable_tqdm=True,
    )  # fmt: skip
    trainer = Trainer(WithLoss(model), arguments, collate, Pictures(photos, model.preprocess))
    trainer.train()
    model.eval().save(Path(out) / "adapter")
    return [row["loss"] for row in trainer.state.log_history if "loss" in row][-1]


if __name__ == "__main__":
    print(f"loss {main(*sys.argv[1:3]):.3f}")
