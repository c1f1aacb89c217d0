"""An image and what speaks for its class."""

import numpy as np
from matplotlib.figure import Figure

from inference.pictures.style import (
    COLOURS,
    SEQUENTIAL,
    WIDTH,
    draw_box,
    new_figure,
    scale_bar,
    show_image,
    show_map,
    styled,
)
from inference.prediction import Explanation

TITLES = {"gradcat": "GradCAT", "cam": "CAM", "gradcam": "Grad-CAM", "rollout": "attention rollout"}


@styled
def draw_explanation(explanation: Explanation, text: str) -> Figure:
    """Draws an image as the model sees it, and next to it what speaks for the class.

    Args:
        explanation: of the image.
        text: names the class and its probability.
    """
    height, width = explanation.image.shape[:2]
    figure = new_figure(0.46 * WIDTH * height / width + 0.7, text)
    plain, explained = figure.subplots(1, 2)
    show_image(plain, explanation.image, "image")
    grey = explanation.image.mean(axis=-1)[..., None].repeat(3, axis=-1).astype(np.uint8)
    show_image(explained, grey)
    shown = show_map(
        explained, explanation.saliency, TITLES[explanation.method], cmap=SEQUENTIAL, alpha=0.55
    )
    limits = float(explanation.saliency.min()), float(explanation.saliency.max())
    if limits[0] < limits[1]:
        is_order = explanation.method == "gradcat"  # each step's scores are scaled by themselves
        label = "order of the choices" if is_order else "speaks for the class"
        ends = ("last", "first") if is_order else ("less", "more")
        bar = scale_bar(figure, shown, explained, label, ends=ends)
        bar.solids.set_alpha(1)
    for box, colour in zip(
        () if explanation.boxes is None else explanation.boxes, COLOURS * 2, strict=False
    ):
        for axes in (plain, explained):
            draw_box(axes, box, colour)
    return figure
