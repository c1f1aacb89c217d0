"""Mean and deviation of the data sets' pixels, by name."""

import re

IMAGENET_STATISTICS = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
# Of the training split; CIFAR's as in the official NesT and the usual recipes.
STATISTICS = {
    "digits": ((0.3054,), (0.3760,)),
    "digits_mosaic": ((0.3052,), (0.3757,)),
    "digits_scenes": ((0.1092,), (0.2597,)),
    "synthetic": ((0.5,) * 3, (0.5,) * 3),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),
}


def default_statistics(name: str, num_channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns a data set's mean and deviation per channel, of pixels scaled to 0..1.

    They are known by the name alone, so that a trained model can be used where its training data
    are not: a set that is not in `STATISTICS` has ImageNet's.

    Args:
        name: as `open_dataset` takes it.
        num_channels: 1 or 3; ImageNet's are averaged for grey images.
    """
    mean, std = STATISTICS.get(re.split("[/:]", name)[0], IMAGENET_STATISTICS)
    if len(mean) == num_channels:
        return mean, std
    return (sum(mean) / len(mean),) * num_channels, (sum(std) / len(std),) * num_channels
