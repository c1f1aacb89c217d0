"""NesT, TNT or DeiT on images of four digits, one in each quadrant: which classes are there.

    python train.py --config=configs/digits_mosaic.py:nest --workdir=runs/mosaic_nest

Arguments: nest, tnt or deit; debug. The label says which classes there are, not where, so that an
explanation of the model can be checked: does it find the quadrant? Our own recipe, tuned on
train[80%:] after training on train[:80%], which have no digit in common. What is not set here is
inherited from configs/digits_nest.py, digits_tnt.py or digits_deit.py: model and optimizer.
"""

from configs import digits_deit, digits_nest, digits_tnt
from configs.common import parse_argument

_OF_DIGITS = {"nest": digits_nest, "tnt": digits_tnt, "deit": digits_deit}


def get_config(argument: str | None = None):
    arg = parse_argument(argument, model=tuple(_OF_DIGITS))
    config = _OF_DIGITS[arg.model].get_config("debug" if arg.debug else None)

    config.data.name = "digits_mosaic"
    config.data.eval_batch_size = 250
    config.data.batch_size = 96
    config.augment = {}  # what shifts or turns a mosaic moves digits over the borders of quadrants

    config.task.loss = "softmax"  # against 1/4 for each of an image's classes, smoothed
    config.checkpoint.best_metric = "set_accuracy"

    if not arg.debug:
        config.loop.num_epochs = 40.0
    return config
