"""--config of every script: a recipe, or the config.json of a run."""

from absl import flags


def define_config_flag(*, or_stored: bool = False) -> None:
    """Defines --config=FILE.py[:argument] or --config=RUN/config.json, see overrides.ConfigFlag."""
    try:
        from harness.overrides import ConfigFlag
        from workdirs.config_file import load_config
    except ImportError:  # tools that also run without a recipe do so on a bare machine
        flags.DEFINE_string("config", None, "Recipe; needs pip install -r requirements.txt")
        return

    def list_sections(config):
        from preview.sections import list_sections

        return list_sections(config)

    flags.DEFINE_flag(ConfigFlag(load_config, list_sections, or_stored))
