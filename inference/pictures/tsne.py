"""How different a block's channels are from each other: t-SNE (TNT paper, figure 3b)."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from inference.pictures import style


def embed(maps: Mapping[str, np.ndarray], *, seed: int = 0) -> dict[str, np.ndarray]:
    """Lays the channels of all models out in one plane: near each other if they look alike.

    Each channel is a point, described by its values at all positions. It is standardised first, so
    that it is what a channel shows that counts, not how strongly.

    Args:
        maps: name of a model -> [h, w, c].
        seed: of t-SNE.

    Returns:
        Name -> [c, 2].

    Raises:
        ValueError: the maps have different planes, too few positions or too few channels.

    Reference:
        van der Maaten and Hinton, "Visualizing data using t-SNE", JMLR 2008; scikit-learn's TSNE.
    """
    planes = {plane.shape[:2] for plane in maps.values()}
    if len(planes) > 1:
        shapes = " and ".join(f"{h} x {w}" for h, w in sorted(planes))
        raise ValueError(f"t-SNE compares channels over the same positions, not {shapes}")
    ((h, w),) = planes
    counts = [plane.shape[-1] for plane in maps.values()]
    if h * w < 4 or sum(counts) < 8:
        raise ValueError(
            f"t-SNE of {sum(counts)} channels at {h} x {w} positions shows nothing; it needs 8 or "
            "more at 2 x 2 or more: a larger --image_size, or an earlier block, has them"
        )
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    points = np.concatenate([plane.reshape(h * w, -1).T for plane in maps.values()])  # [c, h * w]
    points = points - points.mean(axis=1, keepdims=True)
    points = points / np.maximum(points.std(axis=1, keepdims=True), 1e-6)
    perplexity = min(30, (len(points) - 1) / 3)
    with threadpool_limits(1):  # on cores that others use too, threads wait for each other
        places = TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(points)
    return dict(zip(maps, np.split(places, np.cumsum(counts)[:-1]), strict=True))


@style.styled
def draw(points: Mapping[str, np.ndarray], depths: Mapping[str, str]) -> Figure:
    """Draws one dot per channel, one colour per model.

    Args:
        points: name of a model -> [c, 2].
        depths: name of a model -> where its channels are from, in words.
    """
    figure = style.new_figure(4.4, "t-SNE of channels: near each other if they look alike")
    axes = figure.add_subplot()
    for (name, places), colour, marker in zip(
        points.items(), (style.COLOURS[3], style.COLOURS[5]), "o^", strict=False
    ):
        label = f"{name}: {len(places)} channels of {depths[name]}"
        axes.scatter(*places.T, s=14, c=colour, marker=marker, label=label, alpha=0.8, linewidths=0)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_aspect("equal", adjustable="datalim")
    figure.legend(loc="outside lower center", ncols=1, frameon=False)
    return figure
