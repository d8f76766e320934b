"""LoRA on q, k and v of a Dinov2 folder with the Trainer of transformers and peft."""

import json
import sys

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from torchvision.datasets import ImageFolder
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    Trainer,
    TrainingArguments,
)

train, test, epochs, folder, out = sys.argv[1:6]
processor = AutoImageProcessor.from_pretrained(folder)
data, held_back = ImageFolder(train), ImageFolder(test)
model = AutoModelForImageClassification.from_pretrained(folder, num_labels=len(data.classes))
config = LoraConfig(
    r=16,
    lora_alpha=16,
    target_modules=["q_proj", "k_proj", "v_proj"],
    modules_to_save=["classifier"],
)


def collate(samples):
    images, labels = zip(*samples, strict=True)
    pixels = processor(list(images), return_tensors="pt")["pixel_values"]
    return {"pixel_values": pixels, "labels": torch.tensor(labels)}


trainer = Trainer(
    get_peft_model(model, config),
    TrainingArguments(
        out,
        num_train_epochs=int(epochs),
        per_device_train_batch_size=25,
        per_device_eval_batch_size=64,
        learning_rate=1e-3,
        weight_decay=0.01,
        remove_unused_columns=False,
        label_names=["labels"],
        save_strategy="no",
        report_to="none",
    ),
    data_collator=collate,
    train_dataset=data,
    eval_dataset=held_back,
    compute_metrics=lambda p: {"accuracy": float(np.mean(p.predictions.argmax(1) == p.label_ids))},
)
trainer.train()
print(json.dumps({"accuracy": trainer.evaluate()["eval_accuracy"]}))
