"""The shift that a trained adapter makes, as a spectrum: how much rank would it have needed?

Behind block l, tokens h of the bare backbone and h' of the adapted one, both centred:

    Delta_l = argmin_D  sum |h' - h - D h|^2 + lambda |D|^2        ridge, lambda = 1e-4 of the mean variance
    sigma_j = singular values of Delta_l Sigma_l^{1/2},  Sigma_l the covariance of h
    tau^2   = mean square of what the fit leaves, a coordinate

in units of the block's own norm, (tr Sigma_l)^{1/2}, because normalisation follows. The mean shift is
left out: a bias makes it at no cost of rank. What is no linear function of h, token by token, counts as
noise. Without any training, the first step has a spectrum too:

    G_l = sum  (dL / d out_l)^T h_l     at the start: the gradient of W_down W_up
"""

from __future__ import annotations

from math import ceil

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from petiole.backbones.base import State
from petiole.backbones.hooks import Attach, attached, observed
from petiole.data.dataset import Dataset
from petiole.engine.feature_extractor import Features
from petiole.engine.model_card import FrozenModel
from petiole.engine.run import RunSpec
from petiole.errors import RunError
from petiole.methods.registry import create
from petiole.metrics.reduced_rank import effective_rank
from petiole.tasks.classification.adapter import ClassificationAdapter
from petiole.tasks.classification.drift import moves_tokens, roles_above
from petiole.tasks.classification.model import AdaptedClassifier
from petiole.tasks.classification.workspace import ClassificationWorkspace, Subset

SPECTRUM = "spectrum.json"
TOKENS = 20
"""Probe tokens wanted for each dimension."""
IMAGES = 256
"""Probe images at least: the last block's gradient reaches the class token alone, one an image."""
BATCH = 16
RIDGE = 1e-4


class BlockSpectrum(FrozenModel):
    """One block.

    Attributes:
        role: where, e.g. ``block.3.out``.
        values: sigma_j, largest first.
        noise: tau^2.
        gradient: singular values of G_l, largest first.
    """

    role: str
    values: list[float]
    noise: float
    gradient: list[float]


class ShiftSpectrum(FrozenModel):
    """All blocks of one teacher.

    Attributes:
        teacher: its method and rank.
        width: d.
        images, tokens: of the probe.
        blocks: from the first one that is moved.
    """

    teacher: str
    width: int
    images: int
    tokens: int
    blocks: list[BlockSpectrum] = Field(min_length=1)

    @property
    def enough(self) -> bool:
        """Whether there were 20 d probe tokens."""
        return self.tokens >= TOKENS * self.width

    @property
    def tokens_per_image(self) -> float:
        """Mean number of tokens of an image."""
        return self.tokens / self.images

    @property
    def values(self) -> list[float]:
        """sigma_j of one rank for all blocks: root of the mean over blocks of sigma_lj^2."""
        return _pooled([block.values for block in self.blocks])

    @property
    def noise(self) -> float:
        """tau^2, mean over blocks."""
        return sum(block.noise for block in self.blocks) / len(self.blocks)

    @property
    def gradient(self) -> list[float]:
        """The same of G_l, each block's scaled to an energy of 1."""
        rows = torch.tensor([block.gradient for block in self.blocks], dtype=torch.float64)
        return _pooled(normalize(rows, eps=1e-300).tolist())


def _pooled(spectra: list[list[float]]) -> list[float]:
    pooled: list[float] = (
        torch.tensor(spectra, dtype=torch.float64).square().mean(0).sqrt().tolist()
    )
    return pooled


def measure(workspace: ClassificationWorkspace, teacher: RunSpec) -> ShiftSpectrum | None:
    """Measure a finished run on its own training images, in their evaluation view, in fp32.

    Returns ``None`` where the method moves no tokens (it adapts the final vector alone).

    Raises:
        AdapterError, RunError: no adapter in the run's folder, or too few tokens for any fit.
    """
    backbone = workspace.backbone
    adapted = ClassificationAdapter.load(teacher.folder, backbone=backbone).adapted
    if not moves_tokens(adapted):
        return None
    probe = _probe(workspace, teacher)
    fresh = _untrained(workspace, teacher)
    roles = roles_above(adapted)
    shifts, slopes = ({role: Moments(backbone.width) for role in roles} for _ in range(2))
    start = 0
    for state in workspace.table(probe, adapted.cut).batches(len(probe), BATCH):
        labels = torch.tensor(probe.labels[start : start + BATCH])
        bare, slope = _start(fresh, state, labels, roles)
        moved = _moved(adapted, state, roles)
        for role in roles:
            shifts[role].add(bare[role], moved[role] - bare[role])
            slopes[role].add(bare[role], slope[role])
        start += BATCH
    return ShiftSpectrum(
        teacher=f"{teacher.method}, rank {teacher.settings['rank']}",
        width=backbone.width,
        images=len(probe),
        tokens=shifts[roles[0]].count,
        blocks=[_block(role, shifts[role], slopes[role]) for role in roles],
    )


class BlockChange(FrozenModel):
    """How far one block's tokens are moved.

    Attributes:
        role: where, e.g. ``block.3.out``.
        energy: |Delta_l Sigma_l^{1/2}|_F in units of the block's own norm (head of this file).
        effective_rank: exp of the entropy of the shares of sigma_j (Roy and Vetterli, 2007).
    """

    role: str
    energy: float
    effective_rank: float


def changes(adapted: AdaptedClassifier, data: Dataset) -> list[BlockChange]:
    """How far an adapter moves the tokens behind each block, on images ``data`` in their evaluation view.

    Empty where it moves none (it adapts the final vector alone), or where the images have no more tokens than dimensions.
    """
    backbone = adapted.backbone
    if not moves_tokens(adapted):
        return []
    roles = roles_above(adapted)
    moments = {role: Moments(backbone.width) for role in roles}
    keep = torch.linspace(0, len(data) - 1, min(len(data), IMAGES)).round().long()
    some = data.select(keep.tolist())
    for state in (
        Features(backbone, None, quiet=True).table(some, adapted.cut).batches(len(some), BATCH)
    ):
        with torch.no_grad(), observed(backbone, roles) as seen:
            backbone.upper(state, adapted.plan.reads)
            bare = {role: seen[role] for role in roles}
        moved = _observed(adapted, state, roles)
        for role in roles:
            own = moved[role][
                :, : bare[role].shape[1]
            ]  # prompts stand behind the image's own tokens
            moments[role].add(_flat(bare[role]), _flat(own) - _flat(bare[role]))
    if any(one.count <= backbone.width for one in moments.values()):
        return []
    spectra = {role: np.array(moments[role].spectrum()[0]) for role in roles}
    return [
        BlockChange(role=role, energy=float(np.linalg.norm(s)), effective_rank=effective_rank(s))
        for role, s in spectra.items()
    ]


def _block(role: str, shift: Moments, slope: Moments) -> BlockSpectrum:
    values, noise = shift.spectrum()
    gradient = torch.linalg.svdvals(slope.count * slope.moments()[1]).tolist()
    return BlockSpectrum(role=role, values=values, noise=noise, gradient=gradient)


def _probe(workspace: ClassificationWorkspace, teacher: RunSpec) -> Dataset:
    """Training images of the teacher, evenly over its classes: enough for 20 d tokens, if there are."""
    backbone, data = workspace.backbone, workspace.parts(teacher.options or Subset())[0]
    image = torch.zeros(1, 3, *backbone.preprocessing.size, device=workspace.features.device)
    per_image = backbone.lower(image, (backbone.patches,))[backbone.patches].shape[1]
    wanted = max(IMAGES, ceil(TOKENS * backbone.width / per_image))
    keep = torch.linspace(0, len(data) - 1, min(len(data), wanted)).round().long()
    return data.select(keep.tolist())


def _untrained(workspace: ClassificationWorkspace, teacher: RunSpec) -> AdaptedClassifier:
    """The teacher as it was before its first step."""
    method, backbone = create(teacher.method, teacher.settings), workspace.backbone
    with torch.random.fork_rng():
        torch.manual_seed(teacher.seed)
        fresh = AdaptedClassifier(backbone, method.plan(backbone, len(workspace.shift.classes)))
    return fresh.to(workspace.features.device).eval()


class _Tap(nn.Module):
    """A branch that is zero, and whose gradient is therefore that of the stream it joins."""

    def forward(self, h: Tensor) -> Tensor:
        self.h, self.branch = h.detach(), torch.zeros_like(h).requires_grad_()
        return self.branch


def _start(
    fresh: AdaptedClassifier, state: State, labels: Tensor, roles: list[str]
) -> tuple[State, State]:
    """Tokens of the bare backbone at ``roles``, and the gradient of the fresh head's loss there."""
    plan, taps = fresh.plan, [_Tap() for _ in roles]
    with attached(fresh.backbone, [Attach(r, t) for r, t in zip(roles, taps, strict=True)]):
        values = fresh.backbone.upper(state, plan.reads)
        logits = fresh.head(fresh.refine(fresh.pool(*(values[role] for role in plan.reads))))
        loss = cross_entropy(logits.float(), labels.to(logits.device), reduction="sum")
        slopes = torch.autograd.grad(loss, [tap.branch for tap in taps])
    bare = {role: _flat(tap.h) for role, tap in zip(roles, taps, strict=True)}
    return bare, {role: _flat(slope) for role, slope in zip(roles, slopes, strict=True)}


def _moved(adapted: AdaptedClassifier, state: State, roles: list[str]) -> State:
    """Tokens of the adapted backbone at ``roles``, one a row."""
    return {role: _flat(tokens) for role, tokens in _observed(adapted, state, roles).items()}


@torch.no_grad()
def _observed(adapted: AdaptedClassifier, state: State, roles: list[str]) -> State:
    with adapted.attached(), observed(adapted.backbone, roles) as seen:
        adapted.pooled(state)
        return {role: seen[role] for role in roles}


def _flat(tokens: Tensor) -> Tensor:
    return tokens.double().flatten(0, -2).cpu()


class Moments:
    """First and second moments of tokens x and vectors y that belong to them, batch by batch.

    Args:
        width: d, of both.
    """

    def __init__(self, width: int) -> None:
        self.count = 0
        self._sums = torch.zeros(2, width, dtype=torch.float64)
        self._products = torch.zeros(3, width, width, dtype=torch.float64)

    def add(self, x: Tensor, y: Tensor) -> None:
        """Take (n, d) tokens and their vectors in."""
        self.count += len(x)
        self._sums += torch.stack([x.sum(0), y.sum(0)])
        self._products += torch.stack([x.T @ x, x.T @ y, y.T @ y])

    def moments(self) -> tuple[Tensor, Tensor, Tensor]:
        """Covariances of x and x, x and y, y and y."""
        x, y = self._sums / self.count
        means = torch.stack([x.outer(x), x.outer(y), y.outer(y)])
        xx, xy, yy = self._products / self.count - means
        return xx, xy, yy

    def spectrum(self) -> tuple[list[float], float]:
        """sigma_j, largest first, and tau^2 of y as a linear function of x (head of this file).

        Raises:
            RunError: no more tokens than dimensions.
        """
        (xx, xy, yy), n = self.moments(), self.count
        d, energy = len(xx), xx.trace()
        if n <= d:
            raise RunError(
                f"{n} probe tokens cannot show a shift in {d} dimensions. Sweep on more images."
            )
        ridge = RIDGE * energy / d * torch.eye(d, dtype=torch.float64)
        delta = torch.linalg.solve(xx + ridge, xy)  # of row vectors: x -> x delta
        fitted = delta.T @ xx @ delta
        left = (yy - 2 * delta.T @ xy + fitted).trace().clamp_min(0)
        values = torch.linalg.eigvalsh((fitted + fitted.T) / (2 * energy)).clamp_min(0).sqrt()
        # n - d: what a fit of d numbers a coordinate leaves is smaller than the noise.
        return values.flip(0).tolist(), float(left / energy / d * n / (n - d))
