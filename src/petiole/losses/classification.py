"""Cross-entropy over batches that mix a source and a target domain."""

import torch
import torch.nn.functional as F
from torch import Tensor

from petiole.collective import members, summed
from petiole.errors import ConfigError


def domain_cross_entropy(
    logits: Tensor,
    labels: Tensor,
    is_target: Tensor,
    target_weight: float = 0.5,
    label_smoothing: float = 0.0,
    class_weights: Tensor | None = None,
) -> Tensor:
    """Weigh the two domains' mean cross-entropies, however many samples each has in the batch.

        L = w · CE(target) + (1 − w) · CE(source)

    A batch of one domain only gives that domain's plain CE, without a factor, so that training on
    one domain keeps its usual learning rate. Of processes that train together each has a share of the batch; the means
    are those of the whole batch, so that the average of their losses is its loss.

    Args:
        logits: ``(B, K)``.
        labels: ``(B,)``, integers in ``0 … K-1``.
        is_target: ``(B,)``, boolean.
        target_weight: w, in [0, 1].
        label_smoothing: ε, in [0, 1]: the label's mass moved to the uniform distribution.
        class_weights: ``(K,)``; the means are then weighted ones, Σ w_y CE / Σ w_y. ``None``: all alike.

    Returns:
        A scalar, in nats.

    Raises:
        ConfigError: ``target_weight`` outside [0, 1].
        ValueError: An empty batch, or shapes that do not match.

    Source: the ½ CE(real) + ½ CE(syn) of joint synthetic and few-shot real training, as in
    DataDream (Kim et al., 2024), whose launcher uses w = 0.8.
    """
    if not 0 <= target_weight <= 1:
        raise ConfigError(f"target_weight must lie in [0, 1], not {target_weight}.")
    if logits.ndim != 2 or not len(logits) == len(labels) == len(is_target) > 0:
        raise ValueError(
            "Expected logits (B, K), labels (B,) and is_target (B,) of one non-empty batch, got "
            f"{tuple(logits.shape)}, {tuple(labels.shape)} and {tuple(is_target.shape)}."
        )
    each = F.cross_entropy(
        logits, labels, weight=class_weights, label_smoothing=label_smoothing, reduction="none"
    )
    return (_shares(labels, is_target.bool(), target_weight, class_weights, each) * each).sum()


def _shares(
    labels: Tensor,
    is_target: Tensor,
    target_weight: float,
    class_weights: Tensor | None,
    like: Tensor,
) -> Tensor:
    """Factor (B,) of every sample's cross-entropy, which holds its class weight already.

    By arithmetic and not by masks, so that a GPU is never waited for to learn how many of either domain there are.
    """
    weights = torch.ones_like(like) if class_weights is None else class_weights[labels]
    sizes = torch.stack([is_target.sum(), (~is_target).sum()]).to(weights)
    totals = torch.stack([(weights * is_target).sum(), (weights * ~is_target).sum()])
    (targets, sources), (target, source) = summed(torch.stack([sizes, totals]))
    of_target = torch.where(sources > 0, target_weight, 1.0) / torch.where(target > 0, target, 1.0)
    of_source = torch.where(targets > 0, 1.0 - target_weight, 1.0) / torch.where(
        source > 0, source, 1.0
    )
    return members() * torch.where(is_target, of_target, of_source)
