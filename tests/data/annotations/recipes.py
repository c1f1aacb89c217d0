"""Recipes of large data sets, for a few steps on small ones."""

import train


def train_some_steps(recipe, workdir, **data):
    """Trains the recipe as it is, but for small images, a small model and a few steps."""
    config, debug = recipe.get_config(), recipe.get_config("debug")
    for section in ("model", "detector", "decoder"):
        if section in config:
            config[section] = debug[section]
    config.init_from = None
    config.mesh.data = 1
    config.data.update(image_size=64, batch_size=2, eval_batch_size=2, **data)
    config.loop.update(num_epochs=4.0, log_every_steps=1, evaluate_every_epochs=4.0)
    if "step_epochs" in config.optimizer:
        config.optimizer.step_epochs = (2.0,)
    metrics = train.train_and_evaluate(config, workdir)
    assert metrics["num_examples"] == 2
    return metrics
