"""Lets `pip install -e .` through, and refuses what would copy the code out of its checkout."""

from setuptools import setup
from setuptools.command.bdist_wheel import bdist_wheel

WHY = (
    "nest-tnt-jax runs from its checkout, whose packages (data, tools, training, ...) must not lie "
    "beside other people's: install it with `pip install -e .` from a clone that stays in place"
)


class Refused(bdist_wheel):
    """A wheel to install elsewhere; an editable one never runs this command."""

    def run(self):
        """Ends the installation in one sentence."""
        raise SystemExit(WHY)


setup(cmdclass={"bdist_wheel": Refused})
