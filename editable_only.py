"""The build backend: setuptools, which installs the checkout in place and refuses to copy it."""

from setuptools.build_meta import *  # noqa: F403 - the hooks of PEP 517 and PEP 660

WHY = (
    "nest-tnt-jax runs from its checkout, whose packages (data, tools, training, ...) must not lie "
    "beside other people's: install it with `pip install -e .` from a clone that stays in place"
)


def get_requires_for_build_wheel(config_settings=None):
    """Ends any other installation in one sentence, before it downloads what this code needs."""
    raise SystemExit(WHY)


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    """The same for installers that do not ask first."""
    raise SystemExit(WHY)
