"""The section `task` of a GAN's config."""

import dataclasses
from typing import Literal

from harness.arguments import check_range, problem
from tasks.gan.diff_augment import Operation


@dataclasses.dataclass(frozen=True, kw_only=True)
class GanOptions:
    """What a recipe sets in section `task`; the fields are its keys.

    Attributes:
        loss: "logistic" (non-saturating), "hinge" or "wasserstein" (with gradient penalty).
        steps: "alternating": the generator learns from the updated discriminator, with its own
            noise; "joint": both gradients are of the same state and the same generated images.
        r1_weight: of the R1 penalty on real images; 0: none, as with "wasserstein", which has
            `gradient_penalty` instead.
        r1_every_steps: the penalty enters once in this many steps, multiplied by as many (lazy
            regularisation: Karras et al., arXiv 1912.04958, appendix B).
        gradient_penalty: weight of the penalty of "wasserstein", in every step; no other loss has
            it. With classes, an image between a real and a generated one has the real one's.
        augment: differentiable augmentation of what the discriminator sees, names of
            tasks/gan/diff_augment.py.
        consistency: weight of the squared change of the logits under `augment`, of real and of
            generated images; the losses themselves then see plain images (balanced consistency,
            Zhao et al., arXiv 2002.04724). 0: off.
        conditional: generator and discriminator get the class.
        ema_decay, ema_warmup: of the generator's average, see ParameterEma.
        collapse_steps: the run ends when the running count of collapsed steps reaches this, see
            `count_collapsed`.
        features: workdir of a classifier, or file of Inception-v3's weights, in whose features
            samples are compared with the split; "": they are only drawn.
        statistics: file of features of real images, or of their mean and covariance, to compare
            with in place of the split's, see load_statistics; "": the split's.
        num_samples: generated in an evaluation.
        neighbors: k of precision and recall.

    Raises:
        ValueError: a value out of range, or two that exclude each other.
    """

    loss: Literal["logistic", "hinge", "wasserstein"] = "logistic"
    steps: Literal["alternating", "joint"] = "alternating"
    r1_weight: float = 10.0
    r1_every_steps: int = 16
    gradient_penalty: float = 10.0
    augment: tuple[Operation, ...] = ("color", "translation", "cutout")
    consistency: float = 0.0
    conditional: bool = False
    ema_decay: float | None = 0.999
    ema_warmup: bool = True
    collapse_steps: int = 500
    features: str = ""
    statistics: str = ""
    num_samples: int = 1000
    neighbors: int = 3

    def __post_init__(self):
        for key, least in (
            ("r1_weight", 0.0),
            ("gradient_penalty", 0.0),
            ("consistency", 0.0),
            ("r1_every_steps", 1),
            ("collapse_steps", 1),
            ("neighbors", 1),
            ("num_samples", self.neighbors + 1),
        ):
            check_range(f"config.task.{key}", getattr(self, key), least)
        if self.consistency and not self.augment:
            what = "has nothing to compare: config.task.augment=()"
            raise ValueError(problem("config.task.consistency", self.consistency, what))
        if self.loss == "wasserstein" and self.r1_weight and self.gradient_penalty:
            what = (
                "has a penalty of its own: set config.task.r1_weight=0.0, or "
                "config.task.gradient_penalty=0.0 to have R1 instead"
            )
            raise ValueError(problem("config.task.loss", self.loss, what))
