"""How close generated images are to real ones: distances and coverage between two sets of features.

All take float arrays [n, f], one row per image, in the feature space of any model, and compute in
float64. Numbers compare only between equal features, image sizes, resizing and counts: the Frechet
distance falls as either set grows.
"""

import dataclasses

import numpy as np

# Rows of a distance matrix that are held at once: 1,000 x 50,000 float64 are 400 MB.
CHUNK = 1000
# Of the kernel distance, as in the paper.
KERNEL_SUBSETS = 100
KERNEL_SUBSET_SIZE = 1000


@dataclasses.dataclass(frozen=True)
class Moments:
    """Mean and covariance of a set of features, for the Frechet distance.

    Attributes:
        mean: [f].
        covariance: [f, f], with n - 1 in the denominator.
        count: number of rows, n.
    """

    mean: np.ndarray
    covariance: np.ndarray
    count: int


def moments(features: np.ndarray) -> Moments:
    """Returns mean and covariance of features [n, f].

    Raises:
        ValueError: fewer than two rows, or a value that is not finite.
    """
    features = _checked(features, "features", least=2)
    covariance = np.atleast_2d(np.cov(features, rowvar=False))
    return Moments(features.mean(axis=0), covariance, len(features))


def frechet_distance(one: Moments, other: Moments) -> float:
    """Returns the Frechet (2-Wasserstein) distance, squared, of two Gaussians.

        |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2))

    The trace of the root is that of (C1^(1/2) C2 C1^(1/2))^(1/2), which is symmetric: both roots
    come from eigenvalues, where rounding can give small negative numbers and never complex ones.

    Args:
        one, other: moments in the same feature space.

    Returns:
        The distance, at least 0. With features of Inception-v3 it is the FID.

    Raises:
        ValueError: different numbers of features.

    Reference: Heusel et al., "GANs trained by a two time-scale update rule converge to a local Nash
    equilibrium", arXiv 1706.08500, equation 6.
    """
    _check_widths(one.covariance, other.covariance)
    values, vectors = np.linalg.eigh(one.covariance)
    root = (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T  # [f, f]
    values = np.linalg.eigvalsh(root @ other.covariance @ root)
    trace_of_root = np.sqrt(np.maximum(values, 0.0)).sum()
    difference = one.mean - other.mean
    distance = difference @ difference
    distance += np.trace(one.covariance) + np.trace(other.covariance) - 2.0 * trace_of_root
    return max(float(distance), 0.0)


def kernel_distance(
    one: np.ndarray,
    other: np.ndarray,
    *,
    num_subsets: int = KERNEL_SUBSETS,
    subset_size: int = KERNEL_SUBSET_SIZE,
    seed: int = 0,
) -> float:
    """Returns the kernel distance (KID): the squared maximum mean discrepancy, estimated unbiased.

    The kernel is (x . y / f + 1)^3. Being unbiased, the estimate scatters around 0, also below it,
    for equal distributions and any counts.

    Args:
        one, other: features [n, f] and [m, f].
        num_subsets: random subsets of both over which the estimate is averaged.
        subset_size: rows of a subset. A set that is no larger is taken whole; if both are, the
            estimate is made once.
        seed: of the subsets.

    Raises:
        ValueError: fewer than two rows, different widths, or values that are not finite.

    Reference: Binkowski et al., "Demystifying MMD GANs", arXiv 1801.01401, section 4.1.
    """
    one, other = _checked(one, "one", least=2), _checked(other, "other", least=2)
    _check_widths(one, other)
    num_subsets, *sizes = kernel_subsets(len(one), len(other), num_subsets, subset_size)
    rng = np.random.default_rng(seed)

    def subsets():
        for features, size in zip((one, other), sizes, strict=True):
            yield features[rng.permutation(len(features))[:size]]

    return float(np.mean([_squared_mmd(*subsets()) for _ in range(num_subsets)]))


def kernel_subsets(
    num_one: int,
    num_other: int,
    num_subsets: int = KERNEL_SUBSETS,
    subset_size: int = KERNEL_SUBSET_SIZE,
) -> tuple[int, int, int]:
    """Returns how many subsets `kernel_distance` takes, and how many rows of each set they have.

    Args:
        num_one, num_other: rows of the two sets.
        num_subsets, subset_size: see `kernel_distance`.
    """
    is_whole = max(num_one, num_other) <= subset_size
    return 1 if is_whole else num_subsets, min(num_one, subset_size), min(num_other, subset_size)


def _squared_mmd(one: np.ndarray, other: np.ndarray) -> float:
    def kernel(x, y):
        return (x @ y.T / x.shape[1] + 1.0) ** 3

    def mean_of_pairs(x):  # of different rows
        values = kernel(x, x)
        return (values.sum() - np.trace(values)) / (len(x) * (len(x) - 1))

    return float(mean_of_pairs(one) + mean_of_pairs(other) - 2.0 * kernel(one, other).mean())


def precision_recall(
    real: np.ndarray, generated: np.ndarray, *, neighbors: int = 3
) -> tuple[float, float]:
    """Returns the share of the samples that look real, and the share of real images covered.

    The manifold of a set is the union of balls around its points, each out to the k-th nearest
    other point. Precision is the share of the samples that lie in the manifold of the real ones,
    recall the share of the real ones in that of the samples.

    Args:
        real, generated: features [n, f] and [m, f]. The paper takes the same number of both.
        neighbors: k.

    Returns:
        (precision, recall), each in 0..1.

    Raises:
        ValueError: too few rows, different widths, or values that are not finite.

    Reference: Kynkaanniemi et al., "Improved precision and recall metric for assessing generative
    models", arXiv 1904.06991, equations 1 and 2.
    """
    real = _checked(real, "real", least=neighbors + 1)
    generated = _checked(generated, "generated", least=neighbors + 1)
    _check_widths(real, generated)
    return _share_inside(generated, real, neighbors), _share_inside(real, generated, neighbors)


def _share_inside(points: np.ndarray, centers: np.ndarray, neighbors: int) -> float:
    """Returns the share of points that lie in a ball around any centre."""
    radii = np.concatenate(  # a centre is its own nearest, so that index k is the k-th other one
        [np.partition(rows, neighbors)[:, neighbors] for rows in _distance_rows(centers, centers)]
    )
    inside = [(rows <= radii).any(axis=1) for rows in _distance_rows(points, centers)]
    return float(np.concatenate(inside).mean())


def _distance_rows(points: np.ndarray, centers: np.ndarray):
    """Yields the squared distances [<= CHUNK, m] of some points to all centres, chunk by chunk."""
    origin = centers.mean(axis=0)  # rounding grows with the distance from the origin
    points, centers = points - origin, centers - origin
    squares = (centers**2).sum(axis=1)
    for start in range(0, len(points), CHUNK):
        part = points[start : start + CHUNK]
        rows = (part**2).sum(axis=1)[:, None] + squares - 2.0 * part @ centers.T
        yield np.maximum(rows, 0.0)


def _checked(features: np.ndarray, name: str, *, least: int) -> np.ndarray:
    features = np.asarray(features, np.float64)
    if features.ndim != 2 or len(features) < least:
        raise ValueError(f"{name} of shape {features.shape} must be [n, f] with n at least {least}")
    if not np.isfinite(features).all():
        raise ValueError(f"{name} holds values that are not finite")
    return features


def _check_widths(one: np.ndarray, other: np.ndarray) -> None:
    if one.shape[1] != other.shape[1]:
        raise ValueError(f"features of widths {one.shape[1]} and {other.shape[1]} differ")
