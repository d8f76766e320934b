"""An adapted backbone as one graph: hooks and copies become part of it, class vectors become constants."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from petiole.backbones.frozen_network import IMAGES
from petiole.errors import AdapterError
from petiole.methods.prompt_learning.class_vectors import ImageClassVectors
from petiole.methods.prompt_learning.refined_head import RefinedByImage
from petiole.tasks.classification.model import AdaptedClassifier

if TYPE_CHECKING:
    from torch.export import ExportedProgram


class Classifier(nn.Module):
    """Backbone and adapter in one module, for tracing: pixels (B, 3, H, W) -> logits (B, K) and refined vectors (B, d)."""

    def __init__(self, adapted: AdaptedClassifier) -> None:
        super().__init__()
        self.backbone, self.adapter = adapted.backbone.module, adapted

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        vector, logits = self.adapter({IMAGES: pixels})
        return logits, vector


def traced(adapted: AdaptedClassifier) -> ExportedProgram:
    """The graph of ``torch.export``, for batches of any size; it holds no tensor that it does not use.

    Args:
        adapted: with its head.

    Raises:
        AdapterError: its class vectors depend on the image, or torch cannot trace it.
    """
    if isinstance(adapted.head, ImageClassVectors | RefinedByImage):
        raise AdapterError(
            "The class vectors of this adapter depend on the image, so a graph of it would need the whole text tower and a text "
            "of every class for every image. Serve it by petiole, or train another prompt learner (coop, maple, promptsrc)."
        )
    example = torch.zeros(
        2, 3, *adapted.backbone.preprocessing.size, device=adapted.backbone.device
    )
    network = Classifier(adapted).eval()
    with torch.no_grad(), adapted.attached():
        network(
            example
        )  # heads of class names remember their vectors now, so no text tower is traced
        try:
            with quiet():
                program = torch.export.export(
                    network,
                    (example,),
                    dynamic_shapes={"pixels": {0: torch.export.Dim("batch")}},
                    strict=False,
                )
        except Exception as error:  # whatever a layer of another package does in tracing
            said = f"{type(error).__name__}: {error}".splitlines()[0][:300]
            raise AdapterError(
                f"torch.export cannot make a graph of this adapter on {adapted.backbone.name} ({said}). Export it as "
                "safetensors-merged if it can be merged, or serve it by petiole."
            ) from error
    _drop_unused(program)
    return program


def _drop_unused(program: ExportedProgram) -> None:
    """Take out inputs of the graph that nothing reads, such as a text tower's weights."""
    signature, graph = program.graph_signature, program.graph_module.graph
    places = [node for node in graph.nodes if node.op == "placeholder"]
    kept = []
    for node, spec in zip(places, signature.input_specs, strict=True):
        if node.users or spec.target is None:
            kept.append(spec)
            continue
        graph.erase_node(node)
        program.state_dict.pop(spec.target, None)
        program.constants.pop(spec.target, None)
    signature.input_specs[:] = kept
    program.graph_module.recompile()


@contextmanager
def quiet() -> Iterator[None]:
    """Without what exporters tell their own developers; errors still come through."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
