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
    if target.all() or not target.any():
        return F.cross_entropy(logits, labels, label_smoothing=label_smoothing)
    on_target = F.cross_entropy(logits[target], labels[target], label_smoothing=label_smoothing)
    on_source = F.cross_entropy(logits[~target], labels[~target], label_smoothing=label_smoothing)
    return target_weight * on_target + (1 - target_weight) * on_source
