"""Cross-entropy over batches that mix a source and a target domain."""

import torch.nn.functional as F
from torch import Tensor

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
    one domain keeps its usual learning rate.

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
    target = is_target.bool()

    def mean(rows: Tensor | slice) -> Tensor:
        return F.cross_entropy(
            logits[rows], labels[rows], weight=class_weights, label_smoothing=label_smoothing
        )

    if target.all() or not target.any():
        return mean(slice(None))
    return target_weight * mean(target) + (1 - target_weight) * mean(~target)
