"""Fine-tuning of the whole network as lightly-train's first page on classification does it."""

import json
import sys
from pathlib import Path

import lightly_train

train, test, epochs, weights, out = sys.argv[1:6]
names = sorted(folder.name for folder in Path(train).iterdir())
images = len(list(Path(train).glob("*/*")))
steps = int(epochs) * (images // 25)
if __name__ == "__main__":
    lightly_train.train_image_classification(
        out=out,
        data={"train": train, "val": train, "classes": dict(enumerate(names))},
        model="timm/vit_small_patch14_dinov2",
        model_args={
            "backbone_args": {"checkpoint_path": weights},
            "lr": 1e-4 * (16 / 25) ** 0.5,  # it grows with the root of the batch, from 16
            "weight_decay": 0.01,
        },
        transform_args={"image_size": (98, 98)},
        steps=steps,
        batch_size=25,
        gradient_accumulation_steps=1,
        num_workers=0,
        devices=1,
        accelerator="cpu",
        precision="32-true",
        logger_args={"val_every_num_steps": steps},
        seed=0,
    )
    model = lightly_train.load_model(Path(out) / "exported_models" / "exported_last.pt")
    paths = sorted(Path(test).glob("*/*"))
    found = [int(model.predict(str(path))["labels"][0]) for path in paths]
    right = sum(names[label] == path.parent.name for label, path in zip(found, paths, strict=True))
    print(json.dumps({"accuracy": right / len(paths)}))
