"""Deletion and insertion curves of several explanations as a picture."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from inference.pictures import style

# Okabe and Ito's colours, which colour-blind eyes tell apart; marks tell them apart in grey.
_STYLES = {
    "gradcat": ("#0072B2", "o"),
    "cam": ("#E69F00", "s"),
    "gradcam": ("#009E73", "^"),
    "rollout": ("#CC79A7", "D"),
    "random": ("#555555", None),
}
_TITLES = {
    "deletion": "deletion: lower is better",
    "insertion": "insertion: higher is better",
}


@style.styled
def draw_faithfulness(scores: Mapping[str, Any]) -> Figure:
    """Draws the curves of all methods side by side, with the areas under them.

    Args:
        scores: of inference.faithfulness.score_faithfulness.
    """
    protocol = scores["protocol"]
    of = f"{protocol['questions']:,} classes in images of {protocol['split']}"
    figure = style.new_figure(3.2, f"The class's probability, mean over {of}")
    for axes, kind in zip(figure.subplots(1, 2, sharey=True), _TITLES, strict=True):
        for name in sorted(scores.keys() - {"protocol"}):
            curve = scores[name][f"{kind}_curve"]
            color, marker = _STYLES.get(name, ("#56B4E9", "v"))
            axes.plot(
                np.linspace(0, 100, len(curve)),
                curve,
                color=color,
                marker=marker,
                markersize=4,
                markevery=max(1, len(curve) // 8),
                linestyle="--" if name == "random" else "-",
                label=f"{name} ({scores[name][kind]:.3f})",
            )
        axes.set_title(_TITLES[kind])
        axes.set_xlabel(f"pixels {'deleted' if kind == 'deletion' else 'inserted'} (%)")
        axes.set_ylim(0, 1)
        axes.grid(alpha=0.3)
        axes.legend(title="method (area)")
    figure.axes[0].set_ylabel("probability of the class")
    return figure


def save_faithfulness(scores: Mapping[str, Any], path: Path) -> None:
    """Writes the picture; the suffix of the path, .png or .svg, says how."""
    style.save(draw_faithfulness(scores), path)
