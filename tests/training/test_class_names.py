"""Classes are matched by name wherever both sides name them: 12 colours, in folders "0" to "11"."""

import colorsys
import json
import shutil
import unicodedata

import cv2
import numpy as np
import pytest

import evaluate
import train
from configs import digits_nest
from data import datasets
from data.class_names import imagenet_names
from harness.errors import ConfigError
from inference.predictor import Predictor
from training import experiment
from training.trained_run import restore
from workdirs.class_file import own_classes
from workdirs.records import write_record
from zoo.load import load_variables
from zoo.save import write_weights

NAMES = tuple(map(str, range(12)))
AS_TEXT = tuple(sorted(NAMES))  # 0, 1, 10, 11, 2, ...


def colour(name):
    return np.array(colorsys.hsv_to_rgb(int(name) / 12, 1, 1)) * 230


def write_folder(root, names=NAMES, written_as=None, count=6):
    """PNGs of the colours that `names` stand for, in folders of these names, or of others."""
    for name, folder in zip(names, written_as or names, strict=True):
        (root / folder).mkdir(parents=True)
        rng = np.random.default_rng(int(name))
        for index in range(count):
            image = colour(name) + rng.integers(0, 20, (8, 8, 3))
            cv2.imwrite(str(root / folder / f"{index}.png"), image[..., ::-1].astype(np.uint8))
    return root


@pytest.fixture
def config(colours):
    config = digits_nest.get_config()
    config.model.update(patch_size=2, dims=(32,), depths=(1,), num_heads=(2,), drop_path_rate=0.0)
    config.data.update(name=f"folder:{colours[0]}", image_size=8, batch_size=24, num_threads=0)
    config.data.update(train_split="train", eval_split="test")
    config.augment = {}
    config.optimizer.update(base_lr=1e-2, warmup_epochs=1.0)
    config.mesh.data = 1
    config.loop.update(num_epochs=25.0, evaluate_every_epochs=25.0, save_every_epochs=25.0)
    return config


@pytest.fixture(scope="module")
def colours(tmp_path_factory):
    """The folder of the data, and a workdir for the run of all tests."""
    root = tmp_path_factory.mktemp("colours")
    return write_folder(root / "data"), root / "run"


@pytest.fixture
def run(config, colours):
    """Its workdir; trained once, until it names all colours."""
    if not (colours[1] / "DONE").exists():
        assert train.train_and_evaluate(config, colours[1])["top1_accuracy"] == 1
    return colours[1]


def save(run, config, file, names, order=NAMES):
    """Writes the run's weights with the labels in another order, and with names or without."""
    built = experiment.build(config)
    variables, _ = load_variables(run, built.task.model, image_size=8)
    columns = [NAMES.index(name) for name in order]
    head = variables["params"]["head"]
    variables["params"]["head"] = {name: array[..., columns] for name, array in head.items()}
    write_weights(file, variables, built.task.model, (8, 8), names)
    return file


def test_folders_named_by_numbers_are_sorted_as_numbers(run, tmp_path):
    assert (run / "classes.txt").read_text().split() == list(NAMES)
    for names, order in (
        (("10", "9", "100"), ("9", "10", "100")),
        (("007", "7", "70", "08"), ("007", "7", "08", "70")),
        (("11", "9", "9a"), ("11", "9", "9a")),
        (("2", "-1", "10"), ("-1", "10", "2")),
    ):
        folder = write_folder(tmp_path / f"of {names[0]}", "0" * len(names), names, count=1)
        assert datasets.open_dataset(f"folder:{folder}").class_names == order


def test_other_orders_are_mapped_and_said(run, config, tmp_path, capsys):
    """Trained as text order has it, by torchvision's ImageFolder or an earlier version."""
    file = save(run, config, tmp_path / "named.safetensors", AS_TEXT, AS_TEXT)
    assert evaluate.evaluate_weights(config, file)["top1_accuracy"] == 1
    assert "in another order: matched by name" in capsys.readouterr().err
    nameless = save(run, config, tmp_path / "nameless.npz", None, AS_TEXT)
    wrong = evaluate.evaluate_weights(config, nameless)
    assert wrong["top1_accuracy"] == pytest.approx(2 / 12)  # 0 and 1 alone have their places
    note = capsys.readouterr().err
    assert "in the order of the data set, 0, 1, 2, ..., 11, sorted as numbers; others" in note
    (tmp_path / "names.txt").write_text("\n".join(AS_TEXT))
    options = {"classes_file": tmp_path / "names.txt"}
    assert evaluate.evaluate_weights(config, nameless, **options)["top1_accuracy"] == 1
    # The other side: the data in another order, and a workdir that says what it was trained on.
    np.savez(tmp_path / "data.npz", class_names=AS_TEXT, **arrays(AS_TEXT))
    config.data.name = f"npz:{tmp_path}/data.npz"
    for weights in (run, save(run, config, tmp_path / "a.npz", NAMES)):
        assert evaluate.evaluate_weights(config, weights)["top1_accuracy"] == 1
    assert evaluate.evaluate_workdir(config, run)["top1_accuracy"] == 1


def arrays(names):
    images = np.stack([np.broadcast_to(colour(name), (8, 8, 3)) for name in names] * 2)
    labels = np.arange(2 * len(names)) % len(names)
    kinds = {"images": images.astype(np.uint8), "labels": labels}
    return {f"{split}_{kind}": kinds[kind] for split in ("train", "test") for kind in kinds}


def test_a_part_of_the_classes_is_scored_by_name(run, config, tmp_path, capsys):
    """As ImageNet-A and -R have 200 of 1,000: among the classes that the data have."""
    few = ("3", "10", "7")
    folder = write_folder(tmp_path / "few", few)
    for path in (folder / "7").iterdir():  # a colour that is nearer to one the data lacks
        image = np.broadcast_to(colour("8"), (8, 8, 3)).astype(np.uint8)
        cv2.imwrite(str(path), image[..., ::-1])
    config.data.name = f"folder:{folder}"
    for result in (
        evaluate.evaluate_workdir(config, run, split="train"),
        evaluate.evaluate_weights(config, run, split="train"),
    ):
        assert result["among_all_top1_accuracy"] == pytest.approx(2 / 3)
        assert result["top1_accuracy"] == 1 and result["num_examples"] >= 15
        assert result["loss"] < result["among_all_loss"]
    assert capsys.readouterr().err.count("3 of the 12 classes that the model knows, matched") == 2


def test_other_classes_are_refused(run, config, tmp_path):
    folder = write_folder(tmp_path / "other", NAMES, ("green", *NAMES[1:]))
    config.data.name = f"folder:{folder}"
    message = r"12 classes, the trained model 12; they differ in '0', 'green'$"
    for weights in (run, save(run, config, tmp_path / "named.npz", NAMES)):
        with pytest.raises(ConfigError, match=message):
            evaluate.evaluate_weights(config, weights)
    with pytest.raises(ConfigError, match=message):
        evaluate.evaluate_workdir(config, run)
    (folder / "green").rename(folder / "0")
    shutil.copytree(folder / "1", folder / "12")
    with pytest.raises(ConfigError, match=r"13 classes, the trained model 12; .* '12'$"):
        evaluate.evaluate_workdir(config, run)


def test_numbers_of_classes_that_no_name_explains(run, config, tmp_path):
    nameless = save(run, config, tmp_path / "nameless.npz", None)
    config.data.name = f"folder:{write_folder(tmp_path / 'few', ('3', '10'))}"
    with pytest.raises(ConfigError, match="2 classes, the weights 12, and they are not matched"):
        evaluate.evaluate_weights(config, nameless)
    (tmp_path / "names.txt").write_text("a\nb\n")
    with pytest.raises(ConfigError, match=r"names.txt names 2 classes, the weights have 12"):
        evaluate.evaluate_weights(config, nameless, classes_file=tmp_path / "names.txt")


def test_weights_of_imagenet_know_its_names(config, tmp_path):
    """Official files name no class; a folder with some of ImageNet's numbers is ImageNet-A."""
    synsets = list(imagenet_names())
    some = [synsets[i] for i in (999, 6, 386)]
    config.data.name = f"folder:{write_folder(tmp_path / 'a', '012', some)}"
    built = experiment.build(config)
    variables = {"params": dict(built.init().params)}
    bias = np.full(1000, -5, np.float32)
    bias[[6, 7]] = 5, 9
    kernel = np.zeros((32, 1000), np.float32)
    variables["params"]["head"] = {"kernel": kernel, "bias": bias}
    write_weights(tmp_path / "w.npz", variables, built.task.model.clone(num_classes=1000), (8, 8))
    result = evaluate.evaluate_weights(config, tmp_path / "w.npz", split="train")
    assert result["top1_accuracy"] == pytest.approx(1 / 3)  # 7 is no answer
    assert result["among_all_top1_accuracy"] == 0


def test_runs_of_earlier_versions_keep_their_order(run, config, tmp_path):
    """Their classes.txt lists numbers as text; resuming and evaluating go by it."""
    shutil.copytree(run, tmp_path / "old")
    (tmp_path / "old" / "DONE").unlink()
    write_record(tmp_path / "old" / "classes.txt", "".join(f"{name}\n" for name in AS_TEXT))
    record = json.loads((tmp_path / "old" / "config.json").read_text())
    del record["data_digest"]  # which knows the order of the classes
    write_record(tmp_path / "old" / "config.json", json.dumps(record))
    expected = [AS_TEXT.index(name) for name in NAMES]
    built = experiment.build(config, class_names=own_classes(tmp_path / "old"))
    records = built.data.eval_source
    assert built.data.dataset.class_names == AS_TEXT
    for index in range(len(records)):
        name = records.describe(index).split("/")[-2]
        assert records[index]["label"] == expected[int(name)]
    # The step is the last one, so what resumes is the evaluation: with the labels of its order.
    metrics = train.train_and_evaluate(config, tmp_path / "old")
    assert metrics["top1_accuracy"] == pytest.approx(2 / 12)  # its weights are of the new order
    assert (tmp_path / "old" / "classes.txt").read_text().split() == list(AS_TEXT)
    lines = (tmp_path / "old" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["top1_accuracy"] == metrics["top1_accuracy"]


def test_a_class_that_vanished_stops_a_resumed_run(run, config, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "DONE").unlink()
    folder = write_folder(tmp_path / "fewer", NAMES[:-1])
    config.data.name = f"folder:{folder}"
    record = json.loads((tmp_path / "run" / "config.json").read_text())
    record["config"]["data"]["name"] = config.data.name
    write_record(tmp_path / "run" / "config.json", json.dumps(record))
    with pytest.raises(ConfigError, match="only 11 of the 12 classes of this run"):
        train.train_and_evaluate(config, tmp_path / "run")


def test_fine_tuning_puts_the_head_in_the_runs_order(run, config, tmp_path):
    file = save(run, config, tmp_path / "named.safetensors", AS_TEXT, AS_TEXT)
    config.init_from = str(file)
    built = experiment.build(config)
    weights = built.read_weights()
    assert any("another order" in note for note in weights[1].notes)
    state = built.init(weights)
    _, trained, _ = restore(built, run)
    for name in ("kernel", "bias"):
        np.testing.assert_array_equal(state.params["head"][name], trained.params["head"][name])


def test_accents_are_equal_however_they_are_stored(tmp_path):
    """In file names, macOS takes them apart."""
    names = ("Ångström", "é", "z")
    apart = [unicodedata.normalize("NFD", name) for name in names]
    folder = write_folder(tmp_path, "012", apart, count=2)
    config = digits_nest.get_config()
    config.data.update(name=f"folder:{folder}", train_split="train")
    built = experiment.build(config, class_names=names[::-1])
    assert built.data.dataset.class_names == names[::-1]
    assert built.data.dataset.present is None


def test_a_file_with_the_trained_names_in_another_order_is_refused(run, config, tmp_path):
    """By evaluation and by prediction, which would print wrong names."""
    (tmp_path / "names.txt").write_text("\n".join(AS_TEXT))
    message = r"another order than the weights: label 2 is '2' there, '10' here"
    with pytest.raises(ConfigError, match=message):
        evaluate.evaluate_weights(config, run, classes_file=tmp_path / "names.txt")
    with pytest.raises(ConfigError, match=message):
        evaluate.evaluate_workdir(config, run, classes_file=tmp_path / "names.txt")
    with pytest.raises(ConfigError, match=message):
        Predictor.load(run, config, classes_file=tmp_path / "names.txt")
    (tmp_path / "names.txt").write_text("\n".join(f"colour {name}" for name in NAMES))
    names = Predictor.load(run, config, classes_file=tmp_path / "names.txt").class_names
    assert names[2] == "colour 2"  # other names are a translation


def test_whoever_takes_an_order_for_granted_says_so(run, config, tmp_path):
    nameless = save(run, config, tmp_path / "nameless.npz", None)
    note = "in the order of the data set, 0, 1, 2, ..., 11, sorted as numbers"
    assert any(note in text for text in Predictor.load(nameless, config).report.notes)
    assert not any(note in text for text in Predictor.load(run, config).report.notes)
    config.init_from = str(nameless)
    notes = experiment.build(config).read_weights()[1].notes
    assert any(f"{note}; others sort them as text; config.init.other_classes" in x for x in notes)


def test_a_file_that_agrees_in_part_is_not_taken_by_position(run, config, tmp_path):
    (tmp_path / "names.txt").write_text("\n".join(("zero", *AS_TEXT[1:])))
    with pytest.raises(ConfigError, match="label 2 is '2' there, '10' here"):
        evaluate.evaluate_workdir(config, run, classes_file=tmp_path / "names.txt")


def test_a_head_that_is_kept_is_still_put_in_order(run, config, tmp_path):
    """other_classes=False says that the classes are the same, not that their order is."""
    config.init_from = str(save(run, config, tmp_path / "a.safetensors", AS_TEXT, AS_TEXT))
    config.init.other_classes = False
    built = experiment.build(config)
    _, trained, _ = restore(built, run)
    head = built.init(built.read_weights()).params["head"]
    np.testing.assert_array_equal(head["bias"], trained.params["head"]["bias"])
    apart = [unicodedata.normalize("NFD", name) for name in ("é", *NAMES[1:])]
    config.init_from = str(save(run, config, tmp_path / "b.safetensors", apart))
    (tmp_path / "data").mkdir()
    names = [unicodedata.normalize("NFC", name) for name in apart]
    np.savez(tmp_path / "data.npz", class_names=names, **arrays(NAMES))
    config.data.name = f"npz:{tmp_path}/data.npz"
    config.init.other_classes = None
    _, report = experiment.build(config).read_weights()
    assert not report.reinitialized
    config.init_from = str(save(run, config, tmp_path / "c.safetensors", ("1", *NAMES[1:])))
    _, report = experiment.build(config).read_weights()
    assert report.reinitialized  # names that occur twice say nothing


def test_sets_that_name_more_classes_than_they_have(run, config, tmp_path, capsys):
    """ImageNet-A of TensorFlow Datasets names all 1,000: what occurs is asked for, and is said."""
    few = arrays(("3", "10", "7"))
    labels = {key: np.array([3, 10, 7] * 2) for key in few if key.endswith("labels")}
    np.savez(tmp_path / "data.npz", class_names=NAMES, **few | labels)
    config.data.name = f"npz:{tmp_path}/data.npz"
    among_all = evaluate.evaluate_workdir(config, run)
    assert "only 3 of 12 classes have examples in this split" in capsys.readouterr().err
    occurring = evaluate.evaluate_workdir(config, run, among="occurring")
    assert occurring["among_all_loss"] == among_all["loss"] > occurring["loss"]
    assert "have examples" not in capsys.readouterr().err


def test_a_workdir_of_unknown_order(run, config, tmp_path, capsys):
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "classes.txt").unlink()
    (tmp_path / "run" / "DONE").unlink()
    evaluate.evaluate_workdir(config, tmp_path / "run")
    assert "sorted as numbers; others sort them as text" in capsys.readouterr().err
    with pytest.raises(ConfigError, match=r"does not say in which order its classes are"):
        train.train_and_evaluate(config, tmp_path / "run")


def test_a_run_whose_data_has_grown_is_not_resumed(run, config, colours, tmp_path):
    """Its epochs and its schedule would be others, and its order no longer that of the seed."""
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "DONE").unlink()
    record = json.loads((tmp_path / "run" / "config.json").read_text())
    assert record["num_examples"] == 60  # of 72: a tenth of each class is held out
    write_record(tmp_path / "run" / "config.json", json.dumps(record | {"num_examples": 59}))
    with pytest.raises(
        ConfigError, match="begun with other data: 59 training images there, 60 now"
    ):
        train.train_and_evaluate(config, tmp_path / "run")
