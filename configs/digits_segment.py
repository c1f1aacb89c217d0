"""Segmentation of scenes of handwritten digits: real digits that ship with scikit-learn.

    python train.py --config=configs/digits_segment.py:nest --workdir=runs/digits_segment

Argument: nest (default), tnt or deit, whose maps the decoder sees; debug. Eleven classes: the
background and the digits. Scenes of test digits are never of digits that were trained on. Our own
recipe.
"""

from configs.common import parse_argument, segmentation_config

_MODELS = {
    # Maps at 1/2, 1/4 and 1/8: the decoder looks at the last and takes detail from the first.
    "nest": {
        "name": "nest_tiny_s16_32",
        "patch_size": 2,
        "attention": "multi_query",
        "dims": (32, 64, 96),
        "depths": (1, 1, 2),
        "num_heads": (2, 4, 4),
    },
    # 16 x 16 sentences of 4 x 4 pixels, all at 1/4: the neck makes maps at 1/2 and 1/8 of them.
    "tnt": {
        "name": "tnt_s_patch16_224",
        "patch_size": 4,
        "word_size": 2,
        "stem": "conv7_image",
        "fusion": "paper",
        "inner_dim": 16,
        "outer_dim": 64,
        "num_inner_heads": 2,
        "num_outer_heads": 4,
        "depth": 4,
    },
    "deit": {
        "name": "deit_ti_patch16_224",
        "patch_size": 4,
        "dim": 68,
        "num_heads": 4,
        "depth": 4,
    },
}


def get_config(argument: str | None = None):
    arg = parse_argument(argument, model=("nest", "tnt", "deit"))
    config = segmentation_config()

    config.model = _MODELS[arg.model] | {"drop_path_rate": 0.0, "dtype": "float32"}
    config.decoder.dim = 64
    config.decoder.num_layers = 2
    config.decoder.num_heads = 8  # maps of scores; with 4, digits are told apart much later
    config.decoder.mask_dim = 16
    if arg.model != "nest":
        config.decoder.maps = (2, 4)
        config.decoder.strides = (2, 8)

    config.data.name = "digits_scenes"
    config.data.image_size = 64
    config.data.batch_size = 8
    config.data.eval_batch_size = 50
    config.data.num_threads = 1

    config.optimizer.base_lr = 2e-3
    config.optimizer.schedule = "poly"
    config.optimizer.warmup_epochs = 0.1
    config.optimizer.weight_decay = 0.05
    config.optimizer.grad_clip_norm = 1.0

    config.loop.num_epochs = 4.0
    config.loop.log_every_steps = 50
    config.loop.evaluate_every_epochs = 1.0
    config.loop.save_every_epochs = 1.0
    if arg.debug:
        config.data.train_split = "train[:64]"
        config.data.eval_split = "test[:20]"
        config.data.eval_batch_size = 10
        config.loop.num_epochs = 1.0
        config.loop.log_every_steps = 2
    return config
