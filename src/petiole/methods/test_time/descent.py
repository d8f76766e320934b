"""Gradient steps on each image: what the ways that train something share."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from petiole.backbones.hooks import Attach
from petiole.errors import ConfigError
from petiole.methods.test_time.base import ROWS, Adapted, FrozenClassifier, TestTimeMethod
from petiole.ranges import NonNegativeFloat, NonNegativeInt, PositiveFraction


def entropy_of_mean(logits: Tensor, kept: float) -> Tensor:
    """H of the mean prediction of the views that are surest of theirs: (..., V, C) -> (...).

        S = the share ``kept`` of the views with the lowest entropy (one at least),   H(sum_{v in S} softmax(z_v) / |S|)

    (MEM with confidence selection; Shu et al., TPT, NeurIPS 2022, equation 2.)
    """
    logs = logits.log_softmax(-1)
    own = -(logs.exp() * logs).sum(-1)
    count = max(1, int(kept * logits.shape[-2]))
    chosen = own.topk(count, largest=False).indices
    picked = logs.gather(-2, chosen[..., None].expand(*chosen.shape, logs.shape[-1]))
    mean = picked.logsumexp(-2) - math.log(count)
    return -(mean.exp() * mean).sum(-1)


class PerImage(nn.Module):
    """A layer with weights of its own for each of B images; the rows of an image lie behind one another.

    Args:
        images: B.
    """

    def __init__(self, images: int) -> None:
        super().__init__()
        self.images = images

    def forward(self, x: Tensor) -> Tensor:
        """(B V, N, d) -> what is added, (B V, N, d')."""
        rows = self.change(x.reshape(self.images, -1, x.shape[-1]))
        return rows.reshape(*x.shape[:-1], rows.shape[-1])

    def change(self, rows: Tensor) -> Tensor:
        """(B, V N, d) -> (B, V N, d')."""
        raise NotImplementedError


@dataclass(frozen=True)
class Session:
    """What is trained for B images.

    Attributes:
        attach: layers with weights (B, ...).
        scores: vectors (B, V, d) -> logits (B, V, C), where the class vectors depend on the image.
    """

    attach: Sequence[Attach]
    scores: Callable[[Tensor], Tensor] | None = None

    @property
    def layers(self) -> nn.ModuleList:
        """All that is trained."""
        return nn.ModuleList(a.layer for a in self.attach)


@dataclass(frozen=True)
class Descent(TestTimeMethod):
    """AdamW on the entropy of the mean prediction of confident views, for each image from the same start.

    Attributes:
        steps: of AdamW; with 0 the vector is the plain one, to the bit.
        lr: learning rate.
        weight_decay: of AdamW.
        kept: share of the views that count.
    """

    steps: NonNegativeInt = 1
    lr: NonNegativeFloat = 1e-3
    weight_decay: NonNegativeFloat = 0.2
    kept: PositiveFraction = 0.1

    @abstractmethod
    def session(self, model: FrozenClassifier, images: int) -> Session:
        """Fresh layers that change nothing yet."""

    def more(
        self, model: FrozenClassifier, session: Session, images: Tensor
    ) -> Callable[[], Tensor] | None:
        """A further loss (B,) on the evaluation views (B, 3, H, W), called within the steps; none by default."""

    def adapt(self, model: FrozenClassifier, views: Tensor) -> Adapted:
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            session = self.session(model, len(views))
            layers = session.layers.to(views.device)
            layers.train()
            if self.steps:
                self._descend(model, session, views)
            layers.eval()
        copies = ROWS // len(views)
        state = model.lower(views[:, 0].repeat_interleave(copies, 0), session.attach)
        with torch.no_grad(), self._wearing(model, session):
            vectors = model.vectors(state)
            logits = self._scores(model, session, vectors, len(views))
        return Adapted(vectors[::copies], logits.flatten(0, 1)[::copies])

    def _wearing(self, model: FrozenClassifier, session: Session) -> AbstractContextManager[None]:
        return model.attached(session.attach, words=session.scores is None)

    def _scores(
        self, model: FrozenClassifier, session: Session, vectors: Tensor, images: int
    ) -> Tensor:
        """(B V, d) -> (B, V, C)."""
        own = vectors.reshape(images, -1, vectors.shape[-1])
        return session.scores(own) if session.scores else model.scores(own)

    def _descend(self, model: FrozenClassifier, session: Session, views: Tensor) -> None:
        trained = list(session.layers.parameters())
        optimizer = torch.optim.AdamW(trained, lr=self.lr, weight_decay=self.weight_decay)
        state = model.lower(views.flatten(0, 1), session.attach)
        more = self.more(model, session, views[:, 0])
        for _ in range(self.steps):
            with torch.enable_grad(), self._wearing(model, session):
                logits = self._scores(model, session, model.vectors(state), len(views))
                # Inside, because texts in parts are encoded again in the backward pass. A sum: an image's gradient is that of
                # its own loss, whatever stands beside it.
                gradients = _gradients(entropy_of_mean(logits.float(), self.kept).sum(), trained)
            for parameter, gradient in zip(trained, gradients, strict=True):
                parameter.grad = gradient
            if more:
                with torch.enable_grad():
                    second = _gradients(more().sum(), trained)
                for parameter, gradient in zip(trained, second, strict=True):
                    assert parameter.grad is not None
                    parameter.grad += gradient
            optimizer.step()


def _gradients(loss: Tensor, trained: Sequence[Tensor]) -> Sequence[Tensor]:
    try:
        return torch.autograd.grad(loss, trained)
    except RuntimeError as error:  # no graph, or one that does not reach the layers
        raise ConfigError(
            "This adapter's predictions have no gradient, so it cannot be adapted by steps. Use --adapt mta, or an adapter whose head is "
            "differentiable."
        ) from error
