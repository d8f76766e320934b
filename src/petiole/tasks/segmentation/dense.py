"""A method's plan as one for pixels: what it does inside the blocks stays, and a linear head reads every patch.

z_n = W f_n + b,   f_n the n-th local token of the adapted backbone, n = 1 ... N

A head that is trained reads (f_n - mean) / std of every channel, by the training images' tokens before the first step.
"""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from petiole.backbones.base import Backbone
from petiole.errors import ConfigError
from petiole.layers.pool import First
from petiole.layers.ridge import RidgeHead
from petiole.layers.solved import SolvedHead
from petiole.layers.standardise import Standardise
from petiole.methods.base import Method, Plan
from petiole.tasks.classification.model import ClassNameHead

REMEDY = "Take ridge, linear-probe, lora-qkv, adaptertune or another method that trains inside the blocks."


def dense(method: Method, backbone: Backbone, classes: int, name: str) -> Plan:
    """What a method puts onto a backbone for K classes of pixels.

    Raises:
        ConfigError: it lives of image vectors or class names, or the backbone's patches have no common grid.
    """
    _ = backbone.grid
    plan = method.plan(backbone, classes)
    if plan.losses or plan.teacher or plan.anchors:
        raise ConfigError(
            f"{name} has losses on the classes of images, and segmentation has none. {REMEDY}"
        )
    if isinstance(plan.head, ClassNameHead):
        raise ConfigError(
            f"The head of {name} is made of class names, and patches are read by a linear one. {REMEDY}"
        )
    solved = isinstance(plan.head, SolvedHead)
    if solved and not isinstance(plan.head, RidgeHead):
        raise ConfigError(f"The head of {name} is solved for classes of images. {REMEDY}")
    inside = plan.attach or plan.tune or plan.injected
    more = [*plan.refine.parameters(), *plan.pool.parameters()]
    if more or not (inside or solved or isinstance(plan.head, nn.Linear)):
        raise ConfigError(f"{name} changes image vectors, and segmentation reads patches. {REMEDY}")
    width = backbone.width_of(backbone.patches)
    head = RidgeHead(width, classes, plan.head.grid) if isinstance(plan.head, RidgeHead) else None
    return replace(
        plan,
        head=head or nn.Linear(width, classes),
        reads=(backbone.patches,),
        pool=First(),
        refine=nn.Identity() if solved else Standardise(width),
        start=None,
    )
