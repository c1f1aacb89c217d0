"""What all recipes share: the sections with their plainest values, and the recipe argument.

Each section is the keyword arguments of one function, where every value is explained:

    model           zoo/registry.py            create_model; its fields in the model's own file
    data            data/pipeline.py           Data
    augment         data/augment/transforms.py TRANSFORMS: a subsection for each that is on
    device_augment  data/augment/mixing.py     DEVICE_AUGMENTS: the same, after normalisation
    task            tasks/classification.py    Classification
    optimizer       tasks/optimizers.py        create_optimizer
    mesh            harness/sharding.py        create_mesh
    loop            harness/steps.py           plan_steps
    checkpoint      training/checkpoints.py    Checkpoints
    init            zoo/start.py               read_init_from

`seed` is of all randomness. `init_from` is what the run starts from: weights or a workdir, read
with the options of `init`; None: from scratch; "": to be given on the command line.
"""

from ml_collections import ConfigDict, config_dict


def base_config() -> ConfigDict:
    """Returns a config with the sections of a classification run; recipes fill in the rest."""
    config = ConfigDict()
    config.seed = 0
    config.init_from = config_dict.placeholder(str)
    config.init = ConfigDict(
        {
            "weights": "raw",
            "checkpoint": "latest",
            "resize": config_dict.placeholder(str),  # "linear" for NesT, "bicubic" for the others
            "reinit_head": "zeros",
            "other_classes": config_dict.placeholder(bool),  # as a workdir's classes.txt says
            "ignore_fields": (),
        }
    )
    config.model = ConfigDict()
    config.data = ConfigDict(
        {
            "train_split": "train",
            "eval_split": "test",
            "data_dir": config_dict.placeholder(str),
            "classes": config_dict.placeholder(tuple),  # all
            "examples_per_class": config_dict.placeholder(int),  # all
            "examples_seed": 0,
            "mean": config_dict.placeholder(tuple),  # the data set's
            "std": config_dict.placeholder(tuple),
            "eval_crop_ratio": 1.0,
            "eval_crop_interpolation": "bilinear",
            "repeats": 1,
            "num_threads": config_dict.placeholder(int),  # one a core
            "num_workers": 0,
            "prefetch": 2,
            "bad_images": "replace",
            "max_bad": 20,
        }
    )
    config.augment = ConfigDict()
    config.device_augment = ConfigDict()
    config.task = ConfigDict(
        {
            "name": "classification",
            "label_smoothing": 0.0,
            "ema_decay": config_dict.placeholder(float),
            "ema_warmup": False,
            "accumulation_steps": 1,
            "linear_probe": False,
        }
    )
    config.optimizer = _base_optimizer()
    config.mesh = ConfigDict({"data": -1, "fsdp": 1})
    config.loop = ConfigDict(
        {"log_every_steps": 100, "evaluate_every_epochs": 1.0, "save_every_epochs": 1.0}
    )
    config.checkpoint = ConfigDict(
        {"keep_last": 2, "best_metric": "top1_accuracy", "best_mode": "max"}
    )
    return config


def _base_optimizer() -> ConfigDict:
    return ConfigDict(
        {
            "name": "adamw",
            "reference_batch": config_dict.placeholder(int),
            "schedule": "cosine",
            "warmup_epochs": 0.0,
            "final_lr": 0.0,
            "weight_decay": 0.0,
            "decay_exclude": (),
            "b1": 0.9,
            "b2": 0.999,
            "eps": 1e-8,
            "grad_clip_norm": config_dict.placeholder(float),
            "layer_decay": config_dict.placeholder(float),
            "freeze": (),
        }
    )


def gan_config() -> ConfigDict:
    """Returns a config with the sections of a GAN's run; recipes fill in the rest.

    Beside those that all runs have, each is the keyword arguments of one function:

        generator, discriminator    zoo/registry.py    create_generator, create_discriminator
        generator_optimizer, discriminator_optimizer      create_optimizer
        task                        tasks/gan/options.py    GanOptions
    """
    config = base_config()
    for section in ("init", "model", "device_augment", "optimizer"):
        del config[section]
    del config.data.mean, config.data.std  # images are in -1..1
    config.generator = ConfigDict()
    config.discriminator = ConfigDict()
    config.generator_optimizer = _base_optimizer()
    config.discriminator_optimizer = _base_optimizer()
    for optimizer in (config.generator_optimizer, config.discriminator_optimizer):
        optimizer.schedule = "constant"
        optimizer.b1, optimizer.b2 = 0.0, 0.99  # HiT-GAN and StyleGAN2, papers/nest.md section 5
    config.task = ConfigDict(
        {
            "name": "gan",
            "loss": "logistic",
            "r1_weight": 10.0,
            "r1_every_steps": 16,
            "gradient_penalty": 10.0,  # of "wasserstein" alone
            "augment": ("color", "translation", "cutout"),
            "consistency": 0.0,
            "conditional": False,
            "ema_decay": 0.999,
            "ema_warmup": True,
            "steps": "alternating",
            "collapse_steps": 500,
            "features": "",  # no metrics, pictures only
            "statistics": "",  # the evaluation split's
            "num_samples": 1000,
            "neighbors": 3,
        }
    )
    config.checkpoint.best_metric = ""
    config.checkpoint.best_mode = config_dict.placeholder(str)  # distances: min; shares: max
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
    """Makes an ImageNet recipe the fine-tuning of its model, trained at 224, at 384 x 384.

    Neither the NesT nor the TNT paper gives a recipe. Both train as DeiT does, so these are the
    values of DeiT's command (facebookresearch/deit, README_deit.md, commit 4da6691) for images
    of 384; augmentation, label smoothing and drop path stay as in the recipe, as there.
    """
    config.init_from = ""
    config.init.reinit_head = "never"  # the same classes
    config.data.image_size = 384
    config.data.batch_size = 512  # 16 GPUs of 32
    config.data.eval_batch_size = 512
    config.optimizer.base_lr = 5e-6
    config.optimizer.reference_batch = 512
    config.optimizer.final_lr = 5e-6  # --min-lr: constant after the warm-up
    config.optimizer.warmup_epochs = 5.0  # default of main.py
    config.optimizer.weight_decay = 1e-8
    config.loop.num_epochs = 30.0
    config.loop.evaluate_every_epochs = 2.0  # ours
    config.loop.save_every_epochs = 1.0  # ours
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
    config.augment = ConfigDict()
    if "device_augment" in config:  # a GAN has none
        config.device_augment = ConfigDict()
    config.init_from = None
    config.loop.num_epochs = 1.0
    config.loop.log_every_steps = 2
    if "optimizer" in config:  # a GAN has two, which start at once
        config.optimizer.warmup_epochs = 0.25
    return config
