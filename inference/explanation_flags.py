"""The flags of evaluate.py that ask how good the explanations of a classifier are."""

import dataclasses
import sys
from typing import Any

import jax
from absl import flags

from harness.errors import ConfigError, input_errors
from inference.explain import METHODS, check_method, methods_of
from inference.faithfulness import score_faithfulness
from inference.localization import score_localization
from inference.trained_classifier import TrainedClassifier
from tasks.classification import Classification
from training.experiment import Experiment

AUTO_IMAGES = 1000  # a split with more is not measured unless asked for: it takes long


@dataclasses.dataclass(frozen=True)
class Explanations:
    """What is measured of a classifier's explanations besides its accuracy.

    Attributes:
        localization: "auto", "none", "all", or methods of inference/explain.py joined by commas.
            "auto" is "all" for small splits with boxes, else "none".
        localization_split: images on which thresholds are chosen, see score_localization.
        faithfulness: as localization, without "auto".
        faithfulness_steps: points of a curve, less one.
        ema: whether the average of the weights is explained, where there is one.
    """

    localization: str = "none"
    localization_split: str | None = None
    faithfulness: str = "none"
    faithfulness_steps: int = 32
    ema: bool = False

    def check(self, run: Experiment) -> None:
        """Raises ConfigError, before anything is evaluated, if a method does not fit the model."""
        model, size = getattr(run.task, "model", None), run.data.height_and_width
        for flag in ("localization", "faithfulness"):
            methods = getattr(self, flag)
            if methods not in ("auto", "none", "all") and isinstance(run.task, Classification):
                with input_errors():
                    _methods(f"--{flag}", methods, model, size)

    def score(self, run: Experiment, state: Any) -> dict[str, Any]:
        """Returns "localization" and "faithfulness", where asked for.

        Raises:
            ConfigError: what is asked for does not fit the model or the data.
        """
        asked = {"--localization": self.localization, "--faithfulness": self.faithfulness}
        wanted = [flag for flag, methods in asked.items() if methods not in ("auto", "none")]
        if not isinstance(run.task, Classification) or jax.process_count() > 1:
            if wanted:
                raise ConfigError(f"{wanted[0]} needs a classifier and a single process")
            return {}
        classifier = TrainedClassifier.of_run(run, state, ema=self.ema)
        with input_errors():
            methods = {
                flag: _methods(flag, value, classifier.model, classifier.image_size)
                for flag, value in asked.items()
            }
            source, split = run.data.eval_source, run.data.eval_split
            scores = {}
            if methods["--localization"] and self._localizes(source, split):
                scores["localization"] = score_localization(
                    classifier,
                    methods["--localization"],
                    source,
                    split,
                    self.localization_split,
                )
            if methods["--faithfulness"]:
                scores["faithfulness"] = score_faithfulness(
                    classifier,
                    methods["--faithfulness"],
                    source,
                    split,
                    steps=self.faithfulness_steps,
                )
        return scores

    def _localizes(self, source, split: str) -> bool:
        if self.localization != "auto":
            return True
        if not hasattr(source, "boxes"):
            return False
        if len(source) > AUTO_IMAGES:
            print(
                f"note: {split} has boxes; --localization=all measures whether explanations lie in "
                f"them (not done by itself for more than {AUTO_IMAGES:,} images)",
                file=sys.stderr,
            )
            return False
        return True


NO_EXPLANATIONS = Explanations()


def _methods(flag: str, value: str, model: Any, size: tuple[int, int]) -> tuple[str, ...]:
    """Returns the methods that a flag asks for."""
    if value == "none":
        return ()
    if value in ("auto", "all"):
        return methods_of(model, size)
    methods = tuple(name.strip() for name in value.split(","))
    for method in methods:
        try:
            check_method(method, model, size)
        except ValueError as error:
            raise ValueError(f"{flag}={value}: {error}") from None
    return methods


def define_explanation_flags() -> None:
    """Defines the flags that `read_explanations` reads; --ema is the recipe's."""
    names = f"none, all or some of {','.join(METHODS)}"
    flags.DEFINE_string(
        "localization",
        "auto",
        f"Whether explanations lie in the boxes of the data set: auto, {names}. auto: all, if "
        f"there are boxes and at most {AUTO_IMAGES:,} images.",
    )
    flags.DEFINE_string(
        "localization_split", None, "Where thresholds are chosen; None: a part of the train split."
    )
    flags.DEFINE_string(
        "faithfulness", "none", f"Deletion and insertion curves, and their picture: {names}."
    )
    flags.DEFINE_integer("faithfulness_steps", 32, "Points of a curve, less one.", lower_bound=1)


def read_explanations(args: flags.FlagValues) -> Explanations:
    """Returns what the flags ask for."""
    return Explanations(**{f.name: args[f.name].value for f in dataclasses.fields(Explanations)})
