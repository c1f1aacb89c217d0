"""What all recipes share: the sections, and the recipe argument.

Each section is the keyword arguments of one function, which explains every value and has the
defaults; a recipe lists what differs from them, and what a reader looks for first.

    model           zoo/registry.py            create_model; its fields in the model's own file
    data            data/pipeline.py           Data
    augment         data/augment/transforms.py TRANSFORMS: a subsection for each that is on
    device_augment  data/augment/mixing.py     DEVICE_AUGMENTS: the same, after normalisation
    task            tasks/classification.py    Classification
    optimizer       tasks/optimizers.py        create_optimizer
    mesh            parallel/sharding.py       create_mesh
    sharding        parallel/sharding.py       state_shardings
    loop            harness/steps.py           plan_steps
    checkpoint      saving/checkpoints.py    Checkpoints
    init            zoo/start.py               read_init_from

`seed` fixes all randomness. `init_from` is what the run starts from: weights or a workdir, read
with the options of `init`; None: from scratch; "": to be given on the command line.
"""

from ml_collections import ConfigDict


def base_config() -> ConfigDict:
    """Returns a config with the sections of a classification run; recipes fill in the rest."""
    config = ConfigDict(type_safe=False)  # the strict checker knows what each key may be
    config.seed = 0
    config.init_from = None
    sections = ("init", "model", "data", "augment", "device_augment", "task", "optimizer")
    for section in (*sections, "mesh", "sharding", "loop", "checkpoint"):
        config[section] = {}
    config.task.name = "classification"
    config.data.data_dir = None
    return config


def segmentation_config() -> ConfigDict:
    """Returns a config with the sections of a segmentation's run; recipes fill in the rest.

    Those that a classification's run has not, or has otherwise:

        decoder    segmentation/model.py           create_segmenter
        data       data/annotations/pipeline.py    SegmentData
        augment    data/annotations/transforms.py  TRANSFORMS
        task       tasks/segmentation.py           Segmentation
    """
    config = base_config()
    del config["device_augment"]
    config.decoder = {}
    config.task.name = "segmentation"
    config.checkpoint.best_metric = "mean_iou"
    return config


def gan_config() -> ConfigDict:
    """Returns a config with the sections of a GAN's run; recipes fill in the rest.

    Apart from those that all runs have, each is the keyword arguments of one function:

        generator, discriminator    zoo/registry.py    create_generator, create_discriminator
        generator_optimizer, discriminator_optimizer      create_optimizer
        task                        tasks/gan/options.py    GanOptions
    """
    config = base_config()
    for section in ("init", "model", "device_augment", "optimizer"):
        del config[section]
    config.task.name = "gan"
    config.task.features = config.task.statistics = ""
    for network in ("generator", "discriminator"):
        config[network] = {}
        config[f"{network}_optimizer"] = {
            "schedule": "constant",
            "b1": 0.0,  # as in HiT-GAN and StyleGAN2
            "b2": 0.99,
        }
    config.checkpoint.best_metric = ""
    config.checkpoint.best_mode = None  # distances: min; shares: max
    return config


def detection_config() -> ConfigDict:
    """Returns a config with the sections of a detection; recipes fill in the rest.

    Those that a classification's run has not, or has otherwise:

        detector    detection/detr.py               create_detector
        data        data/annotations/pipeline.py    BoxData
        augment     data/annotations/transforms.py  TRANSFORMS
        task        tasks/detection.py              Detection
    """
    config = base_config()
    del config.device_augment
    config.task.name = "detection"
    config.detector = {}
    config.checkpoint.best_metric = "ap"
    return config


def parse_argument(argument: str | None, **choices: tuple[str, ...]) -> ConfigDict:
    """Parses a recipe argument such as "tiny,cifar100": one word of each choice at most.

    Args:
        argument: words separated by commas, in any order; None or "" for the defaults.
        **choices: for each name the words it can be, the default first.

    Returns:
        The word chosen for each name, and `debug`: whether the word "debug" was given.

    Raises:
        ValueError: an unknown word, or two of the same choice.
    """
    chosen = {}
    words = [word for word in (argument or "").split(",") if word]
    for word in words:
        if word == "debug":
            continue
        names = [name for name, allowed in choices.items() if word in allowed]
        allowed = "; ".join(f"{name}: {'|'.join(words)}" for name, words in choices.items())
        if not names:
            raise ValueError(
                f"recipe argument {word!r} is unknown; allowed: {allowed or 'no choices'}; debug"
            )
        if names[0] in chosen:
            raise ValueError(f"recipe argument {word!r} chooses {names[0]} twice in {argument!r}")
        chosen[names[0]] = word
    defaults = {name: allowed[0] for name, allowed in choices.items()}
    return ConfigDict({**defaults, **chosen, "debug": "debug" in words})


def finetune_at_384(config: ConfigDict) -> ConfigDict:
    """Turns an ImageNet recipe into fine-tuning at 384 x 384 of a model trained at 224.

    Neither the NesT nor the TNT paper gives a recipe. Both train as DeiT does, so these are the
    values of DeiT's command (facebookresearch/deit, README_deit.md, commit 4da6691) for images
    of 384; augmentation and label smoothing stay as in the recipe, as there. So does drop path,
    which DeiT turns off (main.py, 418): --config.model.drop_path_rate=0.0.
    """
    config.init_from = ""
    config.init.reinit_head = "never"  # the same classes
    config.data.image_size = 384
    config.data.batch_size = 512  # 16 GPUs of 32
    config.data.eval_batch_size = 512
    config.device_augment.mixup_cutmix.groups = 16
    config.optimizer.base_lr = 5e-6
    config.optimizer.reference_batch = 512
    config.optimizer.final_lr = 5e-6  # --min-lr: constant after the warm-up
    config.optimizer.warmup_epochs = 5.0  # default of main.py
    config.optimizer.weight_decay = 1e-8
    config.loop.num_epochs = 30.0
    config.loop.evaluate_every_epochs = 2.0  # ours
    config.loop.save_every_epochs = 1.0  # ours
    return config


def for_own_images(config: ConfigDict, stage: str, *, is_small: bool) -> ConfigDict:
    """Fills in a recipe for a folder of somebody's own images.

    The values are ours. Fine-tuning has layer-wise decay of the rate, as BEiT (arXiv 2106.08254);
    from scratch the augmentations are NesT's with milder crops.

    Args:
        config: with its model, and `init_from` for fine-tuning.
        stage: "finetune" or "scratch".
        is_small: whether the model is one for small images, of a quarter of a million parameters.
    """
    config.data.name = "folder:"
    # By the images, see tasks/by_images.py.
    config.data.image_size = 32 if is_small else None
    config.data.batch_size = None
    config.loop.num_epochs = None
    config.data.eval_batch_size = 64
    config.data.exif_orientation = True  # cameras store photographs as the sensor saw them
    # "validation" and "test" are the same where a folder has one of them, or none.
    config.data.eval_split = "validation"

    config.augment.random_resized_crop = {"area": (0.3, 1.0)}
    config.augment.flip = {}
    config.augment.color_jitter = {"strength": 0.3}
    config.task.label_smoothing = 0.1
    config.optimizer.grad_clip_norm = 1.0
    config.optimizer.weight_decay = 0.05
    config.loop.log_every_steps = 20
    config.loop.evaluate_every_epochs = 1.0
    config.loop.save_every_epochs = 5.0
    config.optimizer.warmup_epochs = 1.0
    config.optimizer.reference_batch = 64
    if stage == "finetune":
        config.optimizer.base_lr = 2e-3 if is_small else 2e-4
        config.optimizer.layer_decay = 0.75
        return config
    config.init_from = None
    config.optimizer.base_lr = 2e-3 if is_small else 2.5e-4
    config.optimizer.warmup_epochs = 10.0
    config.loop.evaluate_every_epochs = 10.0
    config.loop.save_every_epochs = 10.0
    if not is_small:
        config.augment.randaugment = {}
        config.device_augment.random_erasing = {}
        config.device_augment.mixup_cutmix = {"mixup_alpha": 0.8, "cutmix_alpha": 1.0}
    return config


def shrink(config: ConfigDict, image_size: int) -> ConfigDict:
    """Makes a smoke run of a recipe: under a minute on two CPU cores, no data set needed.

    Keeps the model family, the optimizer and the loop; the images are made up.
    """
    config.data.name = "synthetic"
    config.data.image_size = image_size
    config.data.batch_size = 16
    config.data.eval_batch_size = 16
    config.data.train_split = "train[:128]"
    config.data.eval_split = "test[:32]"
    config.augment = {}
    if "device_augment" in config:  # a GAN has none
        config.device_augment = {}
    config.init_from = None
    config.loop.num_epochs = 1.0
    config.loop.log_every_steps = 2
    if "optimizer" in config:  # a GAN has two, which start at once
        config.optimizer.warmup_epochs = 0.25
        shorter = {"cooldown_epochs": 0.25, "step_epochs": (0.5, 0.75)}
        config.optimizer.update({k: v for k, v in shorter.items() if k in config.optimizer})
    return config
