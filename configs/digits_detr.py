"""DETR that finds handwritten digits: one to six of scikit-learn's, of several sizes, in a scene.

    python train.py --config=configs/digits_detr.py --workdir=runs/digits_detr

Argument: nest|tnt|deit, debug. Our own recipe, tried out with NesT on train[80%:] after training on
train[:80%], whose digits are others: docs/detection.md. The paper's DETR learns hardly anything in
this time; what makes the difference is in detection/detr.py (`queries`) and tasks/detection.py
(`proposal_repeats`).
"""

from configs.common import detection_config, parse_argument

# Maps of 8 x 8 places, 8 pixels apart. Detectors of 431, 430 and 434 thousand parameters.
MODELS = {
    "nest": {
        "name": "nest_tiny_s16_32",
        "patch_size": 4,
        "dims": (48, 96),
        "depths": (1, 3),
        "num_heads": (4, 4),
        "mlp_ratio": 2.0,
    },
    "tnt": {
        "name": "tnt_s_patch16_224",
        "patch_size": 8,
        "word_size": 2,
        "stem": "conv7_image",
        "fusion": "paper",
        "inner_dim": 12,
        "outer_dim": 64,
        "num_inner_heads": 2,
        "num_outer_heads": 4,
        "depth": 4,
    },
    "deit": {
        "name": "deit_ti_patch16_224",
        "patch_size": 8,
        "dim": 88,
        "depth": 4,
        "num_heads": 4,
        "mlp_ratio": 2.0,
    },
}


def get_config(argument: str | None = None):
    arg = parse_argument(argument, model=tuple(MODELS))
    config = detection_config()
    config.model = MODELS[arg.model] | {"drop_path_rate": 0.0, "dtype": "float32", "remat": "none"}

    config.detector.classes = "varifocal"
    config.detector.queries = "encoder"
    config.detector.num_queries = 20
    config.detector.dim = 64
    config.detector.num_heads = 4
    config.detector.mlp_dim = 128
    config.detector.num_encoder_layers = 1
    config.detector.num_decoder_layers = 2
    config.detector.temperature = 20.0
    config.detector.dropout_rate = 0.0

    config.data.name = "digits_scenes"
    config.data.image_size = 64
    config.data.max_objects = 6
    config.data.batch_size = 16
    config.data.eval_batch_size = 100
    config.data.num_threads = 1

    config.task.proposal_repeats = 4
    config.task.class_cost = 2.0
    config.task.ema_decay = 0.998
    config.task.ema_warmup = True

    config.optimizer.base_lr = 1e-3
    config.optimizer.warmup_epochs = 1.0
    config.optimizer.weight_decay = 1e-4
    config.optimizer.grad_clip_norm = 1.0

    config.loop.num_epochs = 13.0
    config.loop.log_every_steps = 50
    config.loop.evaluate_every_epochs = 3.25
    config.loop.save_every_epochs = 3.25
    config.checkpoint.best_metric = "ema_ap"
    if arg.debug:
        config.data.train_split = "train[:64]"
        config.data.eval_split = "test[:32]"
        config.data.eval_batch_size = 32
        config.loop.num_epochs = 2.0
        config.loop.log_every_steps = 2
    return config
