"""Frozen features once, then scikit-learn: what many would write first."""

import json
import sys

import timm
import torch
from sklearn.linear_model import LogisticRegression
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder

train, test, _, weights = sys.argv[1:5]
model = timm.create_model(
    "tf_efficientnet_lite0",
    pretrained=True,
    pretrained_cfg_overlay={"file": weights},
    num_classes=0,
).eval()
transform = timm.data.create_transform(
    **timm.data.resolve_data_config(model=model), is_training=False
)


def features(folder):
    images = ImageFolder(folder, transform)
    with torch.inference_mode():
        batches = [model(x) for x, _ in DataLoader(images, batch_size=64)]
    return torch.cat(batches).numpy(), images.targets


head = LogisticRegression(max_iter=1000).fit(*features(train))
print(json.dumps({"accuracy": head.score(*features(test))}))
