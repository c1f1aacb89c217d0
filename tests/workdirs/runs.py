"""The smallest run on digits, and what people do with one, all in this process."""

import contextlib
import io

from configs import digits_nest
from evaluate import evaluate_workdir
from inference.predictor import Predictor
from reports.answer_sections import Choices
from reports.page import render
from reports.run_record import read_run
from reports.run_sections import run_page
from train import train_and_evaluate
from training.trained_run import checkpoint_folder
from workdirs.config_file import read_config

NAMES = tuple("0123456789")


def tiny_config(**data):
    """Two epochs of two steps, evaluated and saved after each."""
    config = digits_nest.get_config("debug")
    config.model.update(patch_size=1, dims=(8, 8), depths=(1, 1), num_heads=(2, 2))
    config.data.update(image_size=8, batch_size=8, eval_batch_size=8, num_threads=0)
    config.data.update(train_split="train[:16]", eval_split="test[:8]", **data)
    config.mesh.data = 1
    config.loop.update(num_epochs=2.0, log_every_steps=1)
    config.loop.update(evaluate_every_epochs=1.0, save_every_epochs=1.0)
    return config


def train(workdir, config=None):
    return train_and_evaluate(config or tiny_config(), workdir)


def evaluate(workdir):
    return evaluate_workdir(read_config(workdir), workdir)


def predict(workdir, files):
    predictor = Predictor.load(checkpoint_folder(workdir), read_config(workdir))
    return predictor.predict(files, batch_size=4)


def report(workdir):
    return read_run(workdir)


def page(workdir):
    return render(run_page(read_run(workdir), Choices(evaluate=False, explain="none")))


@contextlib.contextmanager
def quiet():
    with contextlib.redirect_stdout(io.StringIO()):
        yield
