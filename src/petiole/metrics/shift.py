"""How far two domains lie apart in a feature space, and a picture of it.

All functions take features ``(n, d)`` of a source and a target domain. Class proportions should be
alike in both: a difference in proportions is a difference between the distributions as well.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.distance import cdist
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.manifold import TSNE
from sklearn.metrics.pairwise import rbf_kernel
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

Features = NDArray[np.float64]


def domain_classifier_accuracy(
    source: ArrayLike, target: ArrayLike, seed: int, folds: int = 5, cap: int = 2_000
) -> float:
    """Return how well a linear classifier tells the domains apart on held-out features.

    Logistic regression on standardised features, accuracy over stratified ``folds``; both domains
    are subsampled to the size of the smaller one, at most ``cap``. 0.5: indistinguishable, 1:
    separable. The proxy A-distance of Ben-David et al. (2007) is 2(1 − 2(1 − accuracy)).

    Raises:
        ValueError: Fewer than two samples in a domain, different widths, or NaN.
    """
    source, target = _pair(source, target)
    size = min(len(source), len(target), cap)
    rng = np.random.default_rng(seed)
    features = np.concatenate([_subsample(source, size, rng), _subsample(target, size, rng)])
    domain = np.repeat([0, 1], size)
    splits = StratifiedKFold(min(folds, size), shuffle=True, random_state=seed)
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1_000))
    return float(cross_val_score(model, features, domain, cv=splits, scoring="accuracy").mean())


def mmd(source: ArrayLike, target: ArrayLike, *, seed: int, cap: int = 1_000) -> float:
    """Return the unbiased estimate of the squared maximum mean discrepancy.

        MMD²_u = mean_{i≠j} k(x_i, x_j) + mean_{i≠j} k(y_i, y_j) − 2 mean_{i,j} k(x_i, y_j)
        k(x, y) = exp(−‖x − y‖² / 2σ²),   σ = median distance between pooled samples

    0 in expectation for equal distributions (so it may be slightly negative), at most 2. At most
    ``cap`` samples a domain are used. Source: Gretton et al., "A Kernel Two-Sample Test" (JMLR
    2012), eq. 3 and section 8 for the median heuristic.

    Raises:
        ValueError: Fewer than two samples in a domain, different widths, or NaN.
    """
    source, target = _pair(source, target)
    rng = np.random.default_rng(seed)
    x, y = _subsample(source, cap, rng), _subsample(target, cap, rng)
    pooled = np.concatenate([x, y])
    upper = np.triu_indices(len(pooled), k=1)
    distances = cdist(pooled, pooled)[upper]
    sigma = float(np.median(distances)) or float(distances.mean())  # more than half duplicates
    if sigma == 0:
        return 0.0
    gamma = 1 / (2 * sigma**2)
    within = _off_diagonal_mean(rbf_kernel(x, gamma=gamma)) + _off_diagonal_mean(
        rbf_kernel(y, gamma=gamma)
    )
    return float(within - 2 * rbf_kernel(x, y, gamma=gamma).mean())


def centroid_distances(
    source: ArrayLike, target: ArrayLike, source_labels: ArrayLike, target_labels: ArrayLike
) -> dict[str, float]:
    """Return how far each class's target centroid lies from its source centroid, on average.

    For each metric, ``cosine`` (1 − cos) and ``euclidean``, over the classes in both domains:
    ``centroid_{metric}`` is the mean distance to the same class's source centroid, and
    ``centroid_{metric}_other`` to the nearest source centroid of another class, for scale (NaN
    with one class): classes are aligned where the first is well below the second.

    Raises:
        ValueError: Labels that do not match the features, or no class in both domains.
    """
    source, target = _pair(source, target, at_least=1)
    y_source, y_target = np.asarray(source_labels), np.asarray(target_labels)
    if y_source.shape != (len(source),) or y_target.shape != (len(target),):
        raise ValueError(
            f"Labels of shape {y_source.shape} and {y_target.shape} for {len(source)} source and "
            f"{len(target)} target features; pass one label a row."
        )
    classes = np.intersect1d(y_source, y_target)
    if len(classes) == 0:
        raise ValueError(
            "No class occurs in both domains; check that they share their label names."
        )
    from_target = np.stack([target[y_target == c].mean(axis=0) for c in classes])
    to_source = np.stack([source[y_source == c].mean(axis=0) for c in classes])
    result = {}
    for metric in ("cosine", "euclidean"):
        distance = cdist(from_target, to_source, metric)
        result[f"centroid_{metric}"] = float(np.diag(distance).mean())
        np.fill_diagonal(distance, np.inf)
        nearest = distance.min(axis=1).mean() if len(classes) > 1 else np.nan
        result[f"centroid_{metric}_other"] = float(nearest)
    return result


def shift_report(
    source: ArrayLike,
    target: ArrayLike,
    source_labels: ArrayLike,
    target_labels: ArrayLike,
    *,
    seed: int,
) -> dict[str, float]:
    """Return all measures by name: ``domain_accuracy``, ``mmd2`` and the centroid distances.

    Raises:
        ValueError: As in the single measures.
    """
    return {
        "domain_accuracy": domain_classifier_accuracy(source, target, seed),
        "mmd2": mmd(source, target, seed=seed),
        **centroid_distances(source, target, source_labels, target_labels),
    }


def project(features: ArrayLike, seed: int, perplexity: float = 30) -> NDArray[np.float64]:
    """Return a t-SNE embedding ``(n, 2)`` of features ``(n, d)`` for plotting.

    Features are first reduced to at most 50 principal components, the layout starts from the first
    two, and the perplexity is at most (n − 1)/3. Equal seeds give equal pictures.
    Source: van der Maaten and Hinton (JMLR 2008).

    Raises:
        ValueError: Fewer than 5 samples, fewer than 2 features, or NaN.
    """
    x = _matrix("features", features, at_least=5)
    if x.shape[1] < 2:
        raise ValueError("t-SNE needs at least two features a sample.")
    x = PCA(min(50, *x.shape), random_state=seed).fit_transform(x)
    layout = TSNE(
        2, perplexity=min(perplexity, (len(x) - 1) / 3), init="pca", random_state=seed
    ).fit_transform(x)
    return np.asarray(layout, dtype=np.float64)


def _off_diagonal_mean(kernel: Features) -> float:
    n = len(kernel)
    return float((kernel.sum() - np.trace(kernel)) / (n * (n - 1)))


def _subsample(x: Features, size: int, rng: np.random.Generator) -> Features:
    if size < 2:
        raise ValueError(f"A domain needs two samples or more, not {size}.")
    return x if len(x) <= size else x[np.sort(rng.choice(len(x), size, replace=False))]


def _pair(source: ArrayLike, target: ArrayLike, at_least: int = 2) -> tuple[Features, Features]:
    x = _matrix("source", source, at_least)
    y = _matrix("target", target, at_least)
    if x.shape[1] != y.shape[1]:
        raise ValueError(
            f"Source features have {x.shape[1]} numbers and target features {y.shape[1]}; "
            "use the same backbone for both."
        )
    return x, y


def _matrix(name: str, features: ArrayLike, at_least: int) -> Features:
    x = np.asarray(features, dtype=np.float64)
    if x.ndim != 2 or len(x) < at_least:
        raise ValueError(f"The {name} must be (n, d) with n ≥ {at_least}, got shape {x.shape}.")
    if not np.isfinite(x).all():
        raise ValueError(
            f"The {name} contain NaN or infinity; were they computed in half precision?"
        )
    return x
