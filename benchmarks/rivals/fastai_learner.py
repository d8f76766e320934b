"""Transfer learning as fastai's first page does it: a new head for one pass, then the whole network."""

import json
import sys

from fastai.vision.all import (
    CategoryBlock,
    DataBlock,
    ImageBlock,
    IndexSplitter,
    Resize,
    accuracy,
    aug_transforms,
    get_image_files,
    parent_label,
    set_seed,
    vision_learner,
)

train, test, epochs, weights = sys.argv[1:5]
set_seed(0)
data = DataBlock(
    blocks=(ImageBlock, CategoryBlock),
    get_items=get_image_files,
    get_y=parent_label,
    splitter=IndexSplitter([]),
    item_tfms=Resize(224),
    batch_tfms=aug_transforms(),
)
loaders = data.dataloaders(train, bs=25, num_workers=0)
learner = vision_learner(
    loaders,
    "tf_efficientnet_lite0",
    pretrained_cfg_overlay={"file": weights},
    metrics=accuracy,
)
learner.fine_tune(int(epochs))
held_back = loaders.test_dl(get_image_files(test), with_labels=True)
print(json.dumps({"accuracy": learner.validate(dl=held_back)[1]}))
