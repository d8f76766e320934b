"""``check_backbone``: the contract of backbones, for their authors and for this project's own tests."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from petiole.backbones.base import Backbone
from petiole.backbones.codebook_lvlm import LVLM
from petiole.backbones.encoder_decoder import Inputs, Seq2Seq
from petiole.backbones.frozen_network import FrozenNetwork
from petiole.backbones.registry import LoadRequest, load_any
from petiole.errors import BackboneError
from petiole.testing import frozen_networks, image_backbones
from petiole.testing.contract import hold
from petiole.testing.frozen_networks import NetworkCase, Values
from petiole.testing.image_backbones import ImageBackboneCase


def check_backbone(backbone: str | FrozenNetwork) -> None:
    """Check that a frozen network keeps the contract of backbones; a few passes for every role.

    >>> from petiole.testing import check_backbone
    >>> check_backbone("petiole/tiny-vit")

    Args:
        backbone: a name or folder as ``petiole.load`` takes it (then the shape without weights is checked too), or a
            backbone, an encoder-decoder or a model over a codebook that is built already. It is left as it was.

    Raises:
        ContractError: a clause breaks; the message says which, what it means and what to do.
        BackboneError: the name cannot be loaded, or the network is of no kind that is known here.
    """
    shape: Callable[[], FrozenNetwork] | None = None
    if isinstance(backbone, str):
        shape = partial(load_any, LoadRequest(backbone, meta=True), device="meta")
        backbone = load_any(LoadRequest(backbone))
    subject = f"backbone {backbone.name!r}"
    if isinstance(backbone, Backbone):
        case = ImageBackboneCase(backbone, partial(image_backbones.run, backbone), shape)
        hold(frozen_networks.CLAUSES, case, subject)
        hold(image_backbones.CLAUSES, case, subject)
    elif isinstance(backbone, Seq2Seq):
        run = partial(_text, backbone)
        hold(frozen_networks.CLAUSES, NetworkCase(backbone, run, shape), subject)
    elif isinstance(backbone, LVLM):
        run = partial(_codebook, backbone)
        hold(frozen_networks.CLAUSES, NetworkCase(backbone, run, shape), subject)
        check_backbone(backbone.tower.image_backbone)
    else:
        raise BackboneError(
            f"{backbone.name} is a {type(backbone).__name__}, which petiole.testing cannot run. Derive it from Backbone, "
            "Seq2Seq or LVLM."
        )


@torch.no_grad()
def _text(model: Seq2Seq) -> Values:
    """States and scores of random ids and, where it sees, of random features."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(3, model.config.vocab_size, (2, 5), generator=generator)
    width = model.vision_width
    visual = torch.randn(2, 4, width, generator=generator).to(model.device) if width else None
    ids = ids.to(model.device)
    encoded = model.encode(Inputs(ids, torch.ones_like(ids, dtype=torch.bool), visual))
    return {"states": encoded.states, "scores": model.logits(encoded, ids[:, :3])}


@torch.no_grad()
def _codebook(model: LVLM) -> Values:
    """What the tower sees in noise, and scores of answers to random questions."""
    generator = torch.Generator().manual_seed(1)
    pictures = torch.randn(2, 3, *model.spec.preprocessing.size, generator=generator)
    seen = model.tower.encode_images(pictures.to(model.device)).seen
    words = torch.randint(3, model.config.vocab_size, (2, 3), generator=generator).tolist()
    return {"seen": seen, "scores": model.logits(model.turns(seen, words, words))}
