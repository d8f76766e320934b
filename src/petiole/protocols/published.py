"""What the family published for single data sets: zero-shot templates, and the length of few-shot training.

    zero-shot            the data set's template (Zhou et al., CoOp, IJCV 2022; zsclip.py of its code)
    zero-shot-ensemble   the seven of ImageNet and, on other data sets, that template too
    coop                 16 words from a random start; 50 epochs with 1 shot or on ImageNet, 100 with 2 or 4,
                         200 with more (ibid.)
    promptsrc            50 epochs; averaged about epoch 45 (sd 5) on Cars, Flowers, Aircraft, DTD and EuroSAT,
                         about 30 (sd 30) on the others (Khattak et al., ICCV 2023)
    clip-lora            500 steps for each shot (Zanella and Ben Ayed, CVPRW 2024)

Data sets go by the names of CoOp's lists, see ``petiole.data.readers.coop.name_of``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from petiole.methods.prompt_learning.zero_shot import ZeroShot
from petiole.methods.registry import create

IMAGENET = "ImageNet"
TEMPLATES = {
    "OxfordPets": "a photo of a {}, a type of pet.",
    "OxfordFlowers": "a photo of a {}, a type of flower.",
    "FGVCAircraft": "a photo of a {}, a type of aircraft.",
    "DescribableTextures": "{} texture.",
    "EuroSAT": "a centered satellite photo of {}.",
    "Food101": "a photo of {}, a type of food.",
    "UCF101": "a photo of a person doing {}.",
    "StanfordCars": "a photo of a {}.",
    "SUN397": "a photo of a {}.",
    "Caltech101": "a photo of a {}.",
    IMAGENET: "a photo of a {}.",
}
LATE = ("StanfordCars", "OxfordFlowers", "FGVCAircraft", "DescribableTextures", "EuroSAT")
"""Where PromptSRC averages late epochs."""
FEW_SHOT = ("coop", "promptsrc", "clip-lora")
"""Methods whose few-shot training was published."""


def sentences(method: str, data: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that give a zero-shot method the templates of a data set.

    Args:
        method: registered name.
        data: of the data set; any other name than those above has no templates.
        given: settings that the user states; templates among them win.
    """
    made = create(method)
    if not isinstance(made, ZeroShot) or data not in TEMPLATES or "templates" in given:
        return {}
    own = TEMPLATES[data]
    if len(made.templates) == 1:
        return {"templates": [own]}
    return {"templates": [*made.templates, *([own] if data != IMAGENET else [])]}


def training(method: str, data: str, shots: int) -> dict[str, Any]:
    """Settings of a method's published few-shot training; none for methods without one.

    Args:
        method: registered name.
        data: of the data set; empty for one that is none of the family's.
        shots: images of each class.
    """
    match method:
        case "coop":
            short = shots == 1 or data == IMAGENET
            epochs = 50 if short else 100 if shots <= 4 else 200
            return {"context": 16, "phrase": "", "epochs": epochs}
        case "promptsrc":
            mean, sd = (45.0, 5.0) if data in LATE else (30.0, 30.0)
            return {"epochs": 50, "average_mean": mean, "average_sd": sd}
        case "clip-lora":
            return {"steps": 500 * shots}
    return {}
