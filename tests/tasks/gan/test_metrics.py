"""Distances between sets of features against definitions and known answers."""

import numpy as np
import pytest
import scipy.linalg

from tasks.gan.metrics import Moments, frechet_distance, kernel_distance, moments, precision_recall


def random_covariance(rng, width, rank=None):
    factor = rng.normal(size=(width, rank or 2 * width))
    return factor @ factor.T / factor.shape[1]


@pytest.mark.parametrize("seed", range(5))
def test_frechet_distance_is_scipys(seed):
    """The definition, with the root of the product that is not symmetric."""
    rng = np.random.default_rng(seed)
    width = 24
    one = Moments(rng.normal(size=width), random_covariance(rng, width), 100)
    other = Moments(rng.normal(size=width), random_covariance(rng, width), 100)
    root = scipy.linalg.sqrtm(one.covariance @ other.covariance)
    expected = ((one.mean - other.mean) ** 2).sum()
    expected += np.trace(one.covariance + other.covariance - 2 * root.real)
    assert frechet_distance(one, other) == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(other, one) == pytest.approx(expected, rel=1e-6)


def test_frechet_distance_of_known_gaussians():
    """Diagonal: the squared differences of means and deviations; estimated from many samples."""
    rng = np.random.default_rng(0)
    mean1, mean2 = np.array([0.0, 1.0, -2.0]), np.array([3.0, 0.0, 0.0])
    std1, std2 = np.array([1.0, 2.0, 0.5]), np.array([2.0, 0.1, 0.5])
    expected = ((mean1 - mean2) ** 2 + (std1 - std2) ** 2).sum()
    exact = [Moments(m, np.diag(s**2), 1) for m, s in ((mean1, std1), (mean2, std2))]
    assert frechet_distance(*exact) == pytest.approx(expected, rel=1e-12)
    samples = [m + s * rng.normal(size=(2_000_000, 3)) for m, s in ((mean1, std1), (mean2, std2))]
    assert frechet_distance(*map(moments, samples)) == pytest.approx(expected, rel=1e-3)


def test_frechet_distance_of_singular_covariances():
    """Fewer images than features, where scipy's root is complex or fails."""
    rng = np.random.default_rng(1)
    features = rng.normal(size=(10, 64)).astype(np.float32)
    assert frechet_distance(moments(features), moments(features)) == pytest.approx(0.0, abs=1e-5)
    moved = frechet_distance(moments(features), moments(features + 1))
    assert moved == pytest.approx(64, rel=1e-4)


def test_kernel_distance_is_the_definition():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(7, 5)), rng.normal(size=(9, 5)) + 0.3

    def kernel(a, b):
        return (a @ b / 5 + 1) ** 3

    within_x = np.mean([kernel(a, b) for i, a in enumerate(x) for j, b in enumerate(x) if i != j])
    within_y = np.mean([kernel(a, b) for i, a in enumerate(y) for j, b in enumerate(y) if i != j])
    between = np.mean([kernel(a, b) for a in x for b in y])
    assert kernel_distance(x, y) == pytest.approx(within_x + within_y - 2 * between)


def test_kernel_distance_has_mean_zero_on_equal_distributions():
    rng = np.random.default_rng(0)
    values = [
        kernel_distance(rng.normal(size=(20, 4)), rng.normal(size=(30, 4))) for _ in range(400)
    ]
    error = np.std(values) / np.sqrt(len(values))
    assert abs(np.mean(values)) < 3 * error
    assert min(values) < 0 < max(values)
    other = [
        kernel_distance(rng.normal(size=(20, 4)), rng.normal(size=(30, 4)) + 0.5)
        for _ in range(400)
    ]
    assert np.mean(other) > 10 * error


def test_kernel_distance_of_subsets():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(500, 4)), rng.normal(size=(400, 4)) + 0.5
    whole = kernel_distance(x, y)
    subsets = kernel_distance(x, y, subset_size=100, num_subsets=200)
    assert subsets == pytest.approx(whole, rel=0.1)
    assert subsets == kernel_distance(x, y, subset_size=100, num_subsets=200)


def test_precision_and_recall_on_a_line():
    real = np.arange(10.0)[:, None]  # radius 3 at the ends, 2 inside
    near, far = np.array([[0.5], [4.2], [8.7], [9.9]]), np.array([[100.0], [101], [102], [103]])
    assert precision_recall(real, np.concatenate([near, far]))[0] == 0.5
    precision, recall = precision_recall(real, far)
    assert (precision, recall) == (0.0, 0.0)
    # All samples in one corner of the real ones: real-looking, and little is covered.
    corner = np.array([[0.0], [0.1], [0.2], [0.3]])
    assert precision_recall(real, corner) == (1.0, 0.1)
    assert precision_recall(real, real) == (1.0, 1.0)


def test_precision_and_recall_are_the_definition():
    rng = np.random.default_rng(0)
    real, generated = rng.normal(size=(60, 3)), 0.7 * rng.normal(size=(50, 3)) + 0.5

    def inside(point, centers):
        for center in centers:
            radius = np.sort(np.linalg.norm(centers - center, axis=1))[3]
            if np.linalg.norm(point - center) <= radius:
                return True
        return False

    precision = np.mean([inside(point, real) for point in generated])
    recall = np.mean([inside(point, generated) for point in real])
    assert precision_recall(real, generated) == (precision, recall)
    assert 0 < recall < 1


def test_wrong_features_are_named():
    with pytest.raises(ValueError, match="n at least 2"):
        moments(np.zeros((1, 3)))
    with pytest.raises(ValueError, match="not finite"):
        moments(np.full((4, 3), np.nan))
    with pytest.raises(ValueError, match="widths 3 and 4 differ"):
        kernel_distance(np.zeros((5, 3)), np.zeros((5, 4)))
    with pytest.raises(ValueError, match="n at least 4"):
        precision_recall(np.zeros((3, 3)), np.zeros((5, 3)))
