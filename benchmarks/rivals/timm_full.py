"""Full fine-tuning of a timm model in a plain loop."""

import json
import sys

import timm
import torch
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder

train, test, epochs, weights = sys.argv[1:5]
torch.manual_seed(0)
data = ImageFolder(train)
model = timm.create_model(
    "vit_small_patch14_dinov2",
    pretrained=True,
    pretrained_cfg_overlay={"file": weights, "num_classes": 0},
    num_classes=len(data.classes),
    img_size=98,
)
config = timm.data.resolve_data_config({"img_size": 98}, model=model)
data.transform = timm.data.create_transform(**config, is_training=False)
held_back = ImageFolder(test, data.transform)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.01)
model.train()
for _ in range(int(epochs)):
    for images, labels in DataLoader(data, batch_size=25, shuffle=True):
        cross_entropy(model(images), labels).backward()
        optimizer.step()
        optimizer.zero_grad()
model.eval()
with torch.inference_mode():
    right = sum(
        (model(x).argmax(1) == y).sum().item() for x, y in DataLoader(held_back, batch_size=64)
    )
print(json.dumps({"accuracy": right / len(held_back)}))
