"""Label sets and abstention on real images: do 90 % sets hold the true label in 90 %, and does abstaining help?

From each data set k images a class are drawn; a ridge head on frozen vectors learns from them, its calibration comes from
left-out predictions of the same images, and all other images are the test. Each draw says

    ECE before, after      of softmax(z) and of softmax(z / T)
    covered                share of test images whose set {k : 1 − p_k <= bound} holds the true label; as shown by predict,
                           the most probable label always belongs to the set, so that none is empty
    inside                 draws whose coverage lies inside the central 99 % of the beta-binomial distribution that
                           exchangeable scores would give it: both the left-out and the test images are counted
    error at 50 ... 100 %  risk-coverage curve: error among the surest part of the test images
    AUROC                  of the similarity to the nearest class mean, test images against images of the other data sets;
                           and of the largest logit
    flagged in, out        share of test images and of the others' that the adapter calls out of distribution

    OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE python benchmarks/calibration.py photos/ digits
"""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy.stats import betabinom
from sklearn.metrics import roc_auc_score
from torch import Tensor

from frozen_vectors import Vectors, options, vectors
from petiole.backbones.registry import load_backbone
from petiole.layers.ridge import RidgeHead
from petiole.metrics.calibration import conformal_rank, label_scores, risk_coverage
from petiole.metrics.classification import expected_calibration_error
from petiole.tasks.classification.calibration import Calibration
from petiole.tasks.classification.novelty import Novelty, left_out_similarity

SHOTS = (2, 5, 10)
COVERAGE, LEVEL = 0.9, 0.99
NOVELTY = ("AUROC", "by logit", "flagged in", "flagged out")
ANSWERED = (0.5, 0.7, 0.8, 0.9, 1.0)


def draw(data: Vectors, others: np.ndarray, shots: int, seed: int) -> dict[str, float]:
    rng = np.random.default_rng([seed, shots])
    rows = (np.flatnonzero(data.y == c) for c in range(data.classes))
    train = np.concatenate([rng.choice(r, shots, replace=False) for r in rows])
    x, y = torch.from_numpy(data.x[train]), torch.from_numpy(data.y[train])
    target = torch.ones(len(y), dtype=torch.bool)
    head = RidgeHead(data.x.shape[1], data.classes)
    head.solve(x, y, target)
    left_out = head.left_out(x, y, target)
    assert left_out is not None
    test = np.setdiff1d(np.arange(len(data.y)), train)
    with torch.no_grad():
        logits, far = (head(torch.from_numpy(rows)) for rows in (data.x[test], others))
    known = Novelty.fit(x, y, left_out_similarity(x, y))
    calibration = Calibration.fit(left_out, y, 5, known)
    parts = [(logits, torch.from_numpy(data.x[test])), (far, torch.from_numpy(others))]
    return measured(calibration, logits, data.y[test]) | novelty(calibration, parts)


def novelty(calibration: Calibration, parts: list[tuple[Tensor, Tensor]]) -> dict[str, float]:
    """Logits and vectors of images of the classes, and of others."""
    (near, _), (far, _) = parts
    if not len(far):
        return dict.fromkeys(NOVELTY, math.nan)
    inside = [1] * len(near) + [0] * len(far)
    scores = torch.cat([calibration.familiarity(*part)[0] for part in parts])
    largest = torch.cat([near, far]).amax(-1)
    flagged = (np.mean([bool(x) for x in calibration.outside(*part)]) for part in parts)
    values = (*(roc_auc_score(inside, s.numpy()) for s in (scores, largest)), *flagged)
    return dict(zip(NOVELTY, map(float, values), strict=True))


def measured(calibration: Calibration, logits: Tensor, labels: np.ndarray) -> dict[str, float]:
    p = calibration.probabilities(logits).double().numpy()
    n, bound = len(calibration.scores), calibration.bound(COVERAGE)
    right = p.argmax(1) == labels
    inside_set = label_scores(p, labels) <= bound
    rank = conformal_rank(n, COVERAGE)
    expected = betabinom(len(labels), min(rank, n), max(n + 1 - rank, 1))
    low, high = expected.interval(LEVEL)
    answered, risk = risk_coverage(p.max(1), right)
    return {
        "accuracy": float(right.mean()),
        "before": expected_calibration_error(logits.double().softmax(-1).numpy(), labels),
        "after": expected_calibration_error(p, labels),
        "covered": float(inside_set.mean()),
        "shown": float((inside_set | right).mean()),
        "inside": float(rank > n or low <= inside_set.sum() <= high),
        "size": float(np.maximum((1 - p <= bound).sum(1), 1).mean()),
        **{f"{share}": float(risk[np.searchsorted(answered, share - 1e-9)]) for share in ANSWERED},
    }


def main() -> None:
    given = options(__doc__ or "").parse_args()
    backbone = load_backbone(given.backbone)
    errors = " | ".join(f"error at {100 * share:.0f} %" for share in ANSWERED)
    print(
        f"| data | k | accuracy | ECE before | after | covered | as shown | inside | labels a set | {errors} | {' | '.join(NOVELTY)} |"
    )
    print("|---" + "|---:" * (8 + len(ANSWERED) + len(NOVELTY)) + "|")
    covered = []
    sets = [vectors(name, backbone, given.most) for name in given.data]
    for data in sets:
        rest = [other.x for other in sets if other is not data]
        others = np.concatenate(rest) if rest else data.x[:0]
        for shots in SHOTS:
            rows = [draw(data, others, shots, seed) for seed in range(given.draws)]
            mean = {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}
            covered.append(mean["covered"])
            shares = [
                f"{100 * mean[k]:.1f}" for k in ("accuracy", "before", "after", "covered", "shown")
            ]
            inside = f"{sum(row['inside'] for row in rows):.0f} of {len(rows)}"
            curve = [f"{100 * mean[str(share)]:.1f}" for share in ANSWERED]
            novel = [f"{100 * mean[name]:.1f}" for name in NOVELTY]
            cells = [data.name, str(shots), *shares, inside, f"{mean['size']:.1f}", *curve, *novel]
            print(f"| {' | '.join(cells)} |")
    print(f"\nmean coverage of sets at {100 * COVERAGE:.0f} %: {100 * np.mean(covered):.1f} %")


if __name__ == "__main__":
    main()
