"""Ridge regression with a bias for each domain, averaged over a grid of penalties instead of choosing one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import linear, normalize, one_hot

from petiole.data.splits import class_folds
from petiole.errors import DataError
from petiole.layers.grid import remarks_on
from petiole.layers.solved import SolvedLinear, judging

SOURCE_SHOTS = (0.0, 0.2, 0.6, 2.0, 6.0, 20.0, 60.0, 200.0)
PENALTIES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
LIKELY_SHOTS, LIKELY_PENALTY, LIKELY_PENALTY_ALONE = 3.0, 0.1, 0.3
ZERO_AS, SPREAD = 0.06, math.log(3.3)
"""m = 0 counts as so much under the prior, whose spread is one step of the grid."""
PARTITIONS = 3
LEAST_SCALE, MOST_SCALE, SCALE_SPREAD = 2.0, 100.0, 0.25


class AveragedRidgeHead(SolvedLinear):
    r"""One linear head: the posterior mean of ridge solutions over source weights m and penalties gamma.

    With unit vectors z (divided by the source's root mean square), every solution minimises

        sum_shots |W'(z - z_t) - (t - t_t)|^2 + rho sum_source w |W'(z - z_s) - (t - t_s)|^2 + gamma d |W|^2

    where rho = m K / n_s lets a class's source images count as m shots, however many they are, w weighs source
    classes alike, and both domains are centred on means of their own, so each has its own bias. A solution weighs
    exp(-L) in the average,

        L = n/2 ln mean |r_i|^2 + (ln^2(m / 3) + ln^2(gamma / gamma_0)) / (2 ln^2 3.3)

    with r the leave-one-out residuals of the n shots, in closed form. The logits are s (W'z + b): s makes the
    left-out logits of whole blocks (one shot of every class) most likely, under a log-normal prior around 3 sqrt(K).

    With balanced classes a shot weighs w_i = n / (K n_c), in the sums, the means and the residuals.

    Without a source m is 0; without a target the source images take the shots' place. A class without shots keeps
    the source's column. The parts are textbook (ridge: Hoerl and Kennard, 1970; leave-one-out: Allen, 1974; averaging over
    a grid in place of a choice: Hoeting et al., 1999; a source that counts as a few shots: Daume, 2007); their
    composition and its constants are this project's, see docs/auto.md for what was measured.

    Args:
        width: d.
        classes: K.
        source_shots: values of m.
        penalties: values of gamma.
    """

    def __init__(
        self,
        width: int,
        classes: int,
        source_shots: Sequence[float] = SOURCE_SHOTS,
        penalties: Sequence[float] = PENALTIES,
    ) -> None:
        super().__init__(width, classes)
        self.source_shots, self.penalties = tuple(source_shots), tuple(penalties)
        for name in ("mean_source_shots", "mean_penalty", "scale"):
            self.register_buffer(name, torch.tensor(0.0))

    weighs_classes = True

    def forward(self, x: Tensor) -> Tensor:
        return linear(normalize(x, dim=-1), self.weight, self.bias)

    def solve(self, x: Tensor, y: Tensor, is_target: Tensor) -> None:
        self.solve_and_leave_out(x, y, is_target)

    def solve_and_leave_out(self, x: Tensor, y: Tensor, is_target: Tensor) -> Tensor | None:
        """``solve``, and what ``left_out`` gives, for the price of one of them."""
        posterior = self._posterior(x, y, is_target)
        scores = posterior.left_out()
        scale = posterior.scale(scores)
        weight, bias = posterior.mean()
        self._set((scale / posterior.sigma * weight).T.cpu(), (scale * bias).cpu())
        means = posterior.mean_cell()
        self.mean_source_shots, self.mean_penalty = map(torch.tensor, means)
        self.scale = torch.tensor(scale)
        return None if scores is None else (scale * scores.mean(0)).float()

    def remarks(self) -> list[str]:
        return remarks_on("mean gamma", self.penalties, float(self.mean_penalty))

    @torch.no_grad()
    def left_out(self, x: Tensor, y: Tensor, is_target: Tensor, folds: int = 0) -> Tensor | None:  # noqa: ARG002
        """As of every solved head, but in closed form: blocks of one image of every class, whatever the folds."""
        posterior = self._posterior(x, y, is_target)
        scores = posterior.left_out()
        return None if scores is None else (posterior.scale(scores) * scores.mean(0)).float()

    def _posterior(self, x: Tensor, y: Tensor, is_target: Tensor) -> _Posterior:
        if not len(y):
            raise DataError("Averaged ridge needs at least one training image.")
        judged = judging(is_target)
        x, targets = normalize(x.double(), dim=-1), one_hot(y, self.classes).double()
        source = _source(x[~judged], targets[~judged], x[judged])
        weights = self.weights(y, is_target).to(x)[judged]
        shots = _Shots(x[judged] / source.sigma, targets[judged], source, weights / weights.mean())
        cells = product(self.source_shots if source.count else (0.0,), self.penalties)
        return _Posterior([shots.solution(m, gamma) for m, gamma in cells], shots)


def blocks_of(labels: Tensor, seed: int = 0) -> list[Tensor]:
    """Indices of images in blocks of one of every class, in random order; rare classes miss from later blocks.

    Leaving a whole block out keeps classes balanced: to leave out single images makes each one's own class the
    rarest, which at two shots a class costs many points of estimated accuracy.
    """
    order = np.random.default_rng(seed).permutation(len(labels))
    part = class_folds(labels.cpu().numpy()[order], max(2, len(labels)))
    return [
        torch.from_numpy(order[part == block]).to(labels.device) for block in range(part.max() + 1)
    ]


@dataclass(frozen=True)
class _Source:
    """What is needed of the source: eigenvalues (d,) and basis (d, d) of its scatter, C (d, K) in it, t_s, n_s, sigma."""

    values: Tensor
    basis: Tensor
    cross: Tensor
    prior: Tensor
    count: int
    sigma: float


def _source(x: Tensor, targets: Tensor, shots: Tensor) -> _Source:
    d, k = x.shape[1], targets.shape[1]
    if not len(x):
        centred = shots - shots.mean(0)
        sigma = float(centred.square().mean().sqrt()) or 1.0
        zeros = x.new_zeros
        return _Source(zeros(d), torch.eye(d).to(x), zeros(d, k), zeros(k), 0, sigma)
    counts = targets.sum(0)
    weights = (len(x) / (counts > 0).sum() / counts.clamp_min(1) * targets).sum(1, keepdim=True)
    centred = x - (weights * x).sum(0) / len(x)
    sigma = float((weights * centred.square()).mean().sqrt()) or 1.0
    z, prior = centred / sigma, (weights * targets).sum(0) / len(x)
    values, basis = torch.linalg.eigh((weights * z).T @ z)
    cross = basis.T @ ((weights * z).T @ (targets - prior))
    return _Source(values.clamp_min(0), basis, cross, prior, len(x), sigma)


@dataclass(frozen=True)
class _Solution:
    """One cell: W (d, K) in the source's basis, b (K,), L, and what leaving shots out needs.

    ``fit`` is W, but in columns of classes without shots, which keep the source's in W.
    """

    cell: tuple[float, float]
    weight: Tensor
    bias: Tensor
    loss: float
    fit: Tensor
    annihilator: _Annihilator


class _Shots:
    """The shots in the source's basis: rows sqrt(w_i) of U = Z - z_t (n, d) and R = T - t_t (n, K), w of mean 1."""

    def __init__(self, z: Tensor, targets: Tensor, source: _Source, weights: Tensor) -> None:
        self.source, self.targets, self.root = source, targets, weights.sqrt()[:, None]
        self.mean, self.prior = ((weights[:, None] * part).mean(0) for part in (z, targets))
        self.inputs = self.root * (z - self.mean) @ source.basis
        self.residual = self.root * (targets - self.prior)
        self.seen = targets.any(0)

    @cached_property
    def gram(self) -> Tensor:
        """U'U (d, d)."""
        return self.inputs.T @ self.inputs

    @cached_property
    def cross(self) -> Tensor:
        """U'R (d, K)."""
        return self.inputs.T @ self.residual

    def left_by(self, fit: Tensor, rows: Tensor | slice) -> Tensor:
        """R - U W (q, K) of some rows."""
        return self.residual[rows] - self.inputs[rows] @ fit

    def solution(self, m: float, gamma: float) -> _Solution:
        source, n = self.source, len(self.targets)
        rho = m * len(self.prior) / source.count if source.count else 0.0
        ridge = rho * source.values + gamma * len(source.values)
        start = rho / ridge[:, None] * source.cross
        kept = _Annihilator(self, ridge)
        change = kept.solve(start)
        weight = start + change * self.seen
        bias = torch.where(self.seen, self.prior, source.prior) - self.mean @ source.basis @ weight
        fit = start + change
        squares = (
            self.left_by(fit, slice(None)).square_().sum(1) / kept.diagonal().clamp_min(1e-6) ** 2
        )
        loss = n / 2 * math.log(max(float(squares.mean()), 1e-12))
        likely = LIKELY_PENALTY if source.count else LIKELY_PENALTY_ALONE
        loss += math.log(gamma / likely) ** 2 / (2 * SPREAD**2)
        if source.count:
            loss += math.log((m or ZERO_AS) / LIKELY_SHOTS) ** 2 / (2 * SPREAD**2)
        return _Solution((m, gamma), weight, bias, loss, fit, kept)


class _Annihilator:
    """M = (I + U D^-1 U')^-1 - r r'/n with r_i = sqrt(w_i), which takes targets to what a solution with its bias leaves of them.

    Kept as an (n, n) matrix where there are fewer shots than features, else through the (d, d) one:
    (I + U D^-1 U')^-1 = I - U (D + U'U)^-1 U'.
    """

    def __init__(self, shots: _Shots, ridge: Tensor) -> None:
        self.shots, self.ridge = shots, ridge
        n, d = shots.inputs.shape
        self.few = n <= d
        self.gram = (shots.inputs / ridge) @ shots.inputs.T if self.few else shots.gram.clone()
        self.gram.diagonal().add_(1.0 if self.few else ridge)
        self.inverse = torch.cholesky_inverse(torch.linalg.cholesky(self.gram))

    def solve(self, start: Tensor) -> Tensor:
        """(D + U'U)^-1 U' (R - U W_0) (d, K)."""
        shots = self.shots
        if self.few:
            left = shots.left_by(start, slice(None))
            return (shots.inputs / self.ridge).T @ (self.inverse @ left)
        return self.inverse @ (shots.cross - shots.gram @ start)

    def diagonal(self) -> Tensor:
        """M_ii (n,)."""
        inputs, root = self.shots.inputs, self.shots.root
        share = root.squeeze(1) ** 2 / len(root)
        if self.few:
            return self.inverse.diagonal() - share
        return 1 - ((inputs @ self.inverse) * inputs).sum(1) - share

    def undone(self, rows: Tensor, left: Tensor) -> Tensor:
        """M_QQ^-1 E (q, K), the errors of a solution without the rows Q, of what one with them leaves, E.

        M_QQ = I - P S P' with P = [U_Q, r_Q] and S^-1 = diag(D + U'U, n), so with more rows than features
        M_QQ^-1 = I + P (S^-1 - P'P)^-1 P', a matrix of the features.
        """
        root, n = self.shots.root, len(self.shots.root)
        if self.few:
            inside = self.inverse[rows][:, rows] - root[rows] @ root[rows].T / n
            return _solved(inside, left)
        part = torch.cat([self.shots.inputs[rows], root[rows]], dim=1)
        if len(rows) < part.shape[1]:
            inputs = part[:, :-1]
            inside = torch.eye(len(rows)).to(part) - inputs @ self.inverse @ inputs.T
            return _solved(inside - root[rows] @ root[rows].T / n, left)
        whole = -part.T @ part
        whole[:-1, :-1] += self.gram
        whole[-1, -1] += n
        return left + part @ _solved(whole, part.T @ left)


def _solved(matrix: Tensor, right: Tensor) -> Tensor:
    """A^-1 B of a symmetric A that may be nearly singular."""
    solved: Tensor = torch.linalg.solve(matrix + 1e-9 * torch.eye(len(matrix)).to(matrix), right)
    return solved


class _Posterior:
    """All solutions with their weights."""

    def __init__(self, solutions: Sequence[_Solution], shots: _Shots) -> None:
        self.solutions, self.shots, self.sigma = solutions, shots, shots.source.sigma
        losses = torch.tensor([s.loss for s in solutions], dtype=torch.float64)
        self.weights = (-losses).softmax(0).tolist()

    def mean(self) -> tuple[Tensor, Tensor]:
        """W (d, K) and b (K,)."""
        pairs = list(zip(self.weights, self.solutions, strict=True))
        weight = torch.stack([w * s.weight for w, s in pairs]).sum(0)
        return self.shots.source.basis @ weight, torch.stack([w * s.bias for w, s in pairs]).sum(0)

    def mean_cell(self) -> tuple[float, float]:
        """Posterior means of m and gamma."""
        cells = [s.cell for s in self.solutions]
        mean = [sum(w * c[i] for w, c in zip(self.weights, cells, strict=True)) for i in (0, 1)]
        return mean[0], mean[1]

    def left_out(self) -> Tensor | None:
        """Scores (partitions, n, K) of each shot under solutions without its block; ``None`` if there is one block."""
        targets = self.shots.targets
        blocks = [blocks_of(targets.argmax(1), seed) for seed in range(PARTITIONS)]
        if len(blocks[0]) < 2:
            return None
        scores = targets.new_zeros(PARTITIONS, *targets.shape)
        for weight, solution in zip(self.weights, self.solutions, strict=True):
            if weight < 1e-6:
                continue
            for part, rows in ((p, rows) for p, found in enumerate(blocks) for rows in found):
                left = self.shots.left_by(solution.fit, rows)
                error = solution.annihilator.undone(rows, left)
                scores[part, rows] += weight * (targets[rows] - error / self.shots.root[rows])
        return scores

    def scale(self, left_out: Tensor | None) -> float:
        """s, the most likely one; the prior's where nothing can be left out."""
        likely = 3 * math.sqrt(self.shots.targets.shape[1])
        if left_out is None:
            return likely
        from scipy.optimize import minimize

        labels = self.shots.targets.argmax(1)

        def loss(log_scale: NDArray[np.float64]) -> tuple[float, float]:
            """And its slope."""
            away, fit, slope = float(log_scale[0]) - math.log(likely), 0.0, 0.0
            for part in left_out:
                logits = math.exp(log_scale[0]) * part
                own = logits.gather(1, labels[:, None]).squeeze(1)
                total = logits.logsumexp(1)
                fit += float((total - own).sum())
                logits.mul_((logits - total[:, None]).exp_())
                slope += float((logits.sum(1) - own).sum())
            count = len(left_out)
            fit, slope = fit / count, slope / count
            return fit + away**2 / (2 * SCALE_SPREAD**2), slope + away / SCALE_SPREAD**2

        bounds = [(math.log(LEAST_SCALE), math.log(MOST_SCALE))]
        start = [min(max(math.log(likely), bounds[0][0]), bounds[0][1])]
        found = minimize(loss, start, jac=True, bounds=bounds, options={"ftol": 1e-14})
        return math.exp(found.x[0])


@torch.no_grad()
def domain_ridge(
    x: Tensor,
    y: Tensor,
    is_target: Tensor,
    classes: int,
    *,
    source_weight: float = 0.03,
    penalty: float = 0.1,
) -> tuple[Tensor, Tensor]:
    """One of the averaged solutions, on features as they are: a start for heads that are then trained.

    Args:
        x: features (n, d).
        y: labels (n,).
        is_target: (n,). Without target images the source counts as the target.
        classes: K.
        source_weight: rho.
        penalty: gamma.

    Returns:
        W / sigma (K, d) and the target's bias (K,), so that scores are  W x / sigma + b.
    """
    x, targets, judged = x.double(), one_hot(y, classes).double(), judging(is_target)
    source = _source(x[~judged], targets[~judged], x[judged])
    shots = _Shots(x[judged] / source.sigma, targets[judged], source, x.new_ones(int(judged.sum())))
    found = shots.solution(source_weight * source.count / classes, penalty)
    weight = (source.basis @ found.weight / source.sigma).T
    return weight.float(), found.bias.float()
