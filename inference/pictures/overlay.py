"""An image beside what speaks for its class."""

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from harness.errors import printable
from inference.prediction import Explanation

COLORS = "viridis"  # of equal steps in lightness, also for colour-blind eyes
TITLES = {"gradcat": "GradCAT", "cam": "CAM", "gradcam": "Grad-CAM", "rollout": "attention rollout"}


def draw_explanation(explanation: Explanation, text: str) -> Figure:
    """Draws an image as the model sees it, and beside it what speaks for the class.

    Args:
        explanation: of the image.
        text: names the class and its probability.
    """
    height, width = explanation.image.shape[:2]
    figure = Figure(figsize=(7.2, 3.3 * height / width + 0.4), layout="constrained")
    FigureCanvasAgg(figure)
    image = explanation.image
    image = np.repeat(image, 3, axis=-1) if image.shape[-1] == 1 else image
    plain, explained = figure.subplots(1, 2)
    for axes in (plain, explained):
        axes.set_axis_off()
    plain.imshow(image, interpolation="nearest")
    plain.set_title(printable(text), fontsize=11)
    explained.imshow(image.mean(axis=-1), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    drawn = explained.imshow(explanation.saliency, cmap=COLORS, alpha=0.55)
    explained.set_title(TITLES[explanation.method], fontsize=11)
    bar = figure.colorbar(drawn, ax=explained, ticks=[], fraction=0.046)
    bar.solids.set_alpha(1)
    bar.set_label("speaks for it: less to more", fontsize=10)
    for step, box in enumerate(() if explanation.boxes is None else explanation.boxes):
        top, left, bottom, right = (float(side) - 0.5 for side in box)
        thickness = 1.5 + step
        for axes in (plain, explained):
            for color, line_width in (("black", thickness + 2), ("white", thickness)):
                patch = Rectangle((left, top), right - left, bottom - top, fill=False)
                patch.set(edgecolor=color, linewidth=line_width)
                axes.add_patch(patch)
    return figure
