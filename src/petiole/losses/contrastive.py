"""Four forms of contrastive alignment between two domains, all one masked InfoNCE.

With u_i the normalised projections of a batch, s_ia = u_i·v_a / T, positives P(i) and candidates
A(i) ⊇ P(i):

    L = − mean_i 1/|P(i)| Σ_{p∈P(i)} log( exp s_ip / Σ_{a∈A(i)} exp s_ia )

| form | v | P(i) | A(i) |
|---|---|---|---|
| c1 SupCon | u | same class | all but i |
| c2 cross-domain SupCon | u | same class, other domain | P(i) and all other classes |
| c3 prototype InfoNCE | source centroids μ | μ of the class of i | all centroids seen so far |
| c4 NT-Xent | u | the partner of i | all paired samples but i |

The mean runs over the anchors that have positives; without any the loss is 0, with a graph. Every
function normalises its input, and computes similarities and log-sum-exp in float32 at least, also
under autocast. No factor T/T_base as in the SupContrast code.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from petiole.errors import ConfigError

ContrastiveForm = Literal["c1", "c2", "c3", "c4"]


def sup_con(u: Tensor, labels: Tensor, temperature: float = 0.1) -> Tensor:
    """Return form C1, supervised contrastive loss over all samples of both domains.

        P(i) = {p ≠ i : y_p = y_i},   A(i) = {a ≠ i}

    Args:
        u: Projections ``(B, d)``, of any norm.
        labels: ``(B,)`` integers.
        temperature: T > 0.

    Returns:
        A scalar, in nats.

    Raises:
        ConfigError: A temperature that is not positive.
        ValueError: Shapes that do not match.

    Source: Khosla et al., "Supervised Contrastive Learning" (NeurIPS 2020), eq. 2 (L_out).
    """
    _check_batch(u, labels)
    others = ~torch.eye(len(u), dtype=torch.bool, device=u.device)
    return _info_nce(_similarity(u, u, temperature), _same(labels) & others, others)


def cross_domain_sup_con(
    u: Tensor, labels: Tensor, is_target: Tensor, temperature: float = 0.1
) -> Tensor:
    """Return form C2: C1 with positives from the other domain only.

        P(i) = {p : y_p = y_i, δ_p ≠ δ_i},   A(i) = P(i) ∪ {a : y_a ≠ y_i}

    Samples of the same class and domain are neither pulled nor pushed. Arguments and errors as in
    :func:`sup_con`, with ``is_target`` ``(B,)`` boolean (δ).
    """
    _check_batch(u, labels, is_target)
    same_class = _same(labels)
    positives = same_class & ~_same(is_target.bool())
    return _info_nce(_similarity(u, u, temperature), positives, positives | ~same_class)


class Prototypes(nn.Module):
    """Normalised class centroids of the source domain, as an exponential moving average.

        μ_c ← normalise( m · μ_c + (1 − m) · mean_{i: y_i = c} u_i ),   μ_c = 0 before the first

    Buffers only, nothing to train: ``centroids`` ``(classes, dim)`` and ``seen`` ``(classes,)``.
    """

    centroids: Tensor
    seen: Tensor

    def __init__(self, classes: int, dim: int, momentum: float = 0.9) -> None:
        """Start with no class seen.

        Raises:
            ConfigError: ``momentum`` outside [0, 1).
        """
        super().__init__()
        if not 0 <= momentum < 1:
            raise ConfigError(f"The prototypes' momentum must lie in [0, 1), not {momentum}.")
        self.momentum = momentum
        self.register_buffer("centroids", torch.zeros(classes, dim))
        self.register_buffer("seen", torch.zeros(classes, dtype=torch.bool))

    @torch.no_grad()
    def update(self, u: Tensor, labels: Tensor, is_source: Tensor | None = None) -> None:
        """Move the centroids of the classes in ``labels`` ``(B,)`` to ``u`` ``(B, d)``.

        Args:
            u: Projections, of any norm.
            labels: Their classes.
            is_source: ``(B,)`` boolean, which of them count; ``None``: all.
        """
        _check_batch(u, labels)
        unit = F.normalize(u.to(self.centroids.dtype), dim=1)
        weight = (torch.ones_like(labels) if is_source is None else is_source).to(unit.dtype)
        sums = torch.zeros_like(self.centroids).index_add_(0, labels, unit * weight[:, None])
        counts = unit.new_zeros(len(self.seen)).index_add_(0, labels, weight)
        means = sums / counts.clamp(min=1)[:, None]
        # An unseen centroid is 0, so normalising leaves it the direction of its first mean.
        moved = F.normalize(torch.lerp(means, self.centroids, self.momentum), dim=1)
        present = counts > 0
        self.centroids.copy_(torch.where(present[:, None], moved, self.centroids))
        self.seen |= present


def prototype_info_nce(
    u: Tensor,
    labels: Tensor,
    prototypes: Prototypes,
    temperature: float = 0.1,
    symmetric: bool = False,
    is_target: Tensor | None = None,
) -> Tensor:
    """Return form C3: target samples against the source centroids μ_c.

        L = − mean_i log softmax_c( u_i·μ_c / T )[y_i]

    Classes without a centroid yet are masked out of the softmax, and so are their samples. The
    symmetric form is the mean of L and of its converse, each centroid c against the target samples,
    P(c) = {i : y_i = c}, A(c) = all samples, as CLDA (Singh, NeurIPS 2021) aligns both ways.

    Args:
        u: Projections ``(B, d)``.
        labels: ``(B,)`` integers in ``0 … classes-1``.
        prototypes: Centroids of the source; not updated here, and they receive no gradient.
        temperature: T > 0.
        symmetric: Whether to add the converse.
        is_target: ``(B,)`` boolean, which of the samples are; the others take no part. ``None``: all are.

    Returns:
        A scalar, in nats.

    Raises:
        ConfigError: A temperature that is not positive.
        ValueError: Shapes that do not match.
    """
    _check_batch(u, labels)
    similarity = _similarity(u, prototypes.centroids.to(u.dtype), temperature)
    target = torch.ones_like(labels, dtype=torch.bool) if is_target is None else is_target
    candidates = prototypes.seen & target[:, None]
    every_class = torch.arange(len(prototypes.seen), device=labels.device)
    positives = (labels[:, None] == every_class) & candidates
    forward = _info_nce(similarity, positives, candidates)
    if not symmetric:
        return forward
    converse = _info_nce(similarity.T, positives.T, candidates.T)
    return (forward + converse) / 2


def partners(labels: Tensor, is_target: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Draw disjoint pairs of the same class across the domains, as many as each class allows.

    In a random order of the batch, the k-th source sample of a class and its k-th target sample are partners.

    Args:
        labels: ``(B,)`` integers.
        is_target: ``(B,)`` boolean.
        generator: A CPU generator; None draws from torch's global one.

    Returns:
        Boolean ``(B, B)``, symmetric, at most one in a row: who is whose partner.
    """
    place = torch.randperm(len(labels), generator=generator).to(labels.device, non_blocking=True)
    same_class, same_domain = _same(labels), _same(is_target.bool())
    earlier = same_class & same_domain & (place[None, :] < place[:, None])
    return same_class & ~same_domain & _same(earlier.sum(dim=1))


def nt_xent(u: Tensor, partners: Tensor, temperature: float = 0.1) -> Tensor:
    """Return form C4: each paired sample finds its partner among all paired samples.

        P(i) = {partner of i},   A(i) = {a ≠ i, a has a partner}

    Negatives of the same class (false negatives) are kept, as the literal reading has it; samples
    without a partner take no part.

    Args:
        u: Projections ``(B, d)``, of any norm.
        partners: Boolean ``(B, B)``, e.g. of :func:`partners`.
        temperature: T > 0.

    Returns:
        A scalar, in nats; the mean over the samples that have a partner.

    Raises:
        ConfigError: A temperature that is not positive.
        ValueError: Shapes that do not match.

    Source: Chen et al., "A Simple Framework for Contrastive Learning" (ICML 2020), eq. 1.
    """
    if u.ndim != 2 or partners.shape != (len(u), len(u)):
        raise ValueError(
            f"Expected u (B, d) and partners (B, B), got {tuple(u.shape)} and {tuple(partners.shape)}."
        )
    others = ~torch.eye(len(u), dtype=torch.bool, device=u.device) & partners.any(dim=1)
    return _info_nce(_similarity(u, u, temperature), partners, others)


def contrastive(
    form: ContrastiveForm,
    u: Tensor,
    labels: Tensor,
    is_target: Tensor,
    *,
    temperature: float = 0.1,
    prototypes: Prototypes | None = None,
    symmetric: bool = False,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return the loss of the named form for a mixed batch of u ``(B, d)``, labels and is_target.

    c3 first moves ``prototypes`` (while they are in training mode) towards the batch's source
    samples, then aligns its target samples; c4 draws its pairs with ``generator``.

    Raises:
        ConfigError: An unknown form, c3 without prototypes, or a temperature that is not positive.
        ValueError: Shapes that do not match.
    """
    _check_batch(u, labels, is_target)
    if form == "c1":
        return sup_con(u, labels, temperature)
    if form == "c2":
        return cross_domain_sup_con(u, labels, is_target, temperature)
    if form == "c4":
        return nt_xent(u, partners(labels, is_target, generator), temperature)
    if form != "c3":
        raise ConfigError(f"Unknown contrastive form {form!r}; choose c1, c2, c3 or c4.")
    if prototypes is None:
        raise ConfigError("The contrastive form c3 needs Prototypes(classes, dim).")
    target = is_target.bool()
    if prototypes.training:
        prototypes.update(u, labels, ~target)
    return prototype_info_nce(u, labels, prototypes, temperature, symmetric, target)


def _info_nce(similarity: Tensor, positives: Tensor, candidates: Tensor) -> Tensor:
    """Return the masked InfoNCE of the module's head; all arguments ``(anchors, samples)``."""
    # Anchors without positives take every candidate, so that no log-sum-exp is empty (its gradient is NaN), and weigh
    # nothing. They are not dropped: a GPU would be waited for to learn how many they are.
    anchors = positives.any(dim=1)
    hidden = ~candidates & anchors[:, None]
    normaliser = similarity.masked_fill(hidden, -torch.inf).logsumexp(dim=1, keepdim=True)
    losses = (normaliser - similarity) * positives
    per_anchor = losses.sum(dim=1) / positives.sum(dim=1).clamp(min=1)
    return per_anchor.sum() / anchors.sum().clamp(min=1)


def _similarity(u: Tensor, v: Tensor, temperature: float) -> Tensor:
    if not temperature > 0:
        raise ConfigError(f"The contrastive temperature must be positive, not {temperature}.")
    with torch.autocast(u.device.type, enabled=False):
        wide = torch.promote_types(u.dtype, torch.float32)
        return F.normalize(u.to(wide), dim=1) @ F.normalize(v.to(wide), dim=1).T / temperature


def _same(values: Tensor) -> Tensor:
    return values[:, None] == values[None, :]


def _check_batch(u: Tensor, labels: Tensor, is_target: Tensor | None = None) -> None:
    domains = labels if is_target is None else is_target
    if u.ndim != 2 or labels.shape != (len(u),) or domains.shape != (len(u),):
        raise ValueError(
            f"Expected projections (B, d) with a label and a domain a row, got {tuple(u.shape)}, "
            f"{tuple(labels.shape)} and {tuple(domains.shape)}."
        )
