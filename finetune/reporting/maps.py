"""Maps of features in two dimensions, and nearest neighbours of each; the same on every call."""

import numpy as np
from jaxtyping import Float, Float64, Int
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_limits

NEIGHBOURS = 30  # perplexity of t-SNE, where there are enough points


def pca(features: Float[np.ndarray, "n d"]) -> tuple[Float64[np.ndarray, "n 2"], float]:
    """Project features on their two directions of largest variance.

    Args:
        features: at least two of them, in at least two dimensions.

    Returns:
        The map, and the share of the variance that it holds.
    """
    x = features.astype(np.float64)
    if not vary(x):
        return np.zeros((len(x), 2)), 0.0
    model = PCA(2, svd_solver="full")
    return model.fit_transform(x), float(model.explained_variance_ratio_.sum())


def tsne(features: Float[np.ndarray, "n d"]) -> Float64[np.ndarray, "n 2"]:
    """Map features by t-SNE, from their cosines after the mean is taken away.

    It starts from the PCA, with a seed, and in one thread, whose sums have one order.
    Source: van der Maaten and Hinton, JMLR 2008.

    Args:
        features: at least four of them.
    """
    x = directions(features)
    if not vary(x):
        return np.zeros((len(x), 2))
    model = TSNE(
        2,
        init="pca",
        perplexity=min(NEIGHBOURS, (len(x) - 1) / 3),
        random_state=0,
    )
    with threadpool_limits(1):
        return model.fit_transform(x).astype(np.float64)


def nearest(
    features: Float[np.ndarray, "n d"], k: int
) -> tuple[Int[np.ndarray, "n k"], Float64[np.ndarray, "n k"]]:
    """Find the nearest neighbours of each feature by cosine, after the mean is taken away.

    Untrained encoders give features that are nearly parallel; without their mean they differ.

    Args:
        features: more than k of them.
        k: how many neighbours of each.

    Returns:
        Rows and cosines of the neighbours, nearest first; the first rows where they are as near.
    """
    x = directions(features)
    cosines = np.clip(x @ x.T, -1, 1)
    np.fill_diagonal(cosines, -np.inf)
    rows = np.argsort(-cosines, axis=1, kind="stable")[:, :k]
    return rows, np.take_along_axis(cosines, rows, axis=1)


def directions(features: Float[np.ndarray, "n d"]) -> Float64[np.ndarray, "n d"]:
    """Features without their mean, each of length one; those that are the mean stay zero."""
    x = features.astype(np.float64)
    x = x - x.mean(0)
    lengths = np.linalg.norm(x, axis=1, keepdims=True)
    return np.divide(x, lengths, out=np.zeros_like(x), where=lengths > 1e-9 * (lengths.max() or 1))


def vary(x: Float64[np.ndarray, "n d"]) -> bool:
    """Whether features differ at all."""
    return bool(np.ptp(x, axis=0).any())
