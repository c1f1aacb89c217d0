"""DeiT on scikit-learn's handwritten digits, as configs/digits_nest.py and as large as it.

    python train.py --config=configs/digits_deit.py --workdir=runs/digits_deit

Argument: debug. Our own recipe, tuned on train[80%:]. 255,970 parameters in 4 layers; the NesT of
configs/digits_nest.py has 255,562 in 4.
"""

from configs.common import base_config, parse_argument


def get_config(argument: str | None = None):
    arg = parse_argument(argument)
    config = base_config()

    config.model.name = "deit_ti_patch16_224"
    config.model.patch_size = 4
    config.model.dim = 72
    config.model.depth = 4
    config.model.num_heads = 4
    config.model.pooling = "class_token"
    config.model.drop_path_rate = 0.1
    config.model.dtype = "float32"
    config.model.remat = False

    config.data.name = "digits"
    config.data.image_size = 16
    config.data.batch_size = 96
    config.data.eval_batch_size = 360
    config.data.num_threads = 1
    config.data.eval_crop_interpolation = "bicubic"  # where folders and arrays stand in for digits

    config.augment.random_affine = {"max_shift_pixels": 1.5, "max_rotation_degrees": 12.0}

    config.task.label_smoothing = 0.1
    config.task.ema_decay = 0.99

    config.optimizer.base_lr = 1e-3
    config.optimizer.warmup_epochs = 5.0
    config.optimizer.weight_decay = 0.05
    config.optimizer.grad_clip_norm = 1.0

    config.loop.num_epochs = 60.0
    config.loop.log_every_steps = 50
    config.loop.evaluate_every_epochs = 10.0
    config.loop.save_every_epochs = 10.0
    if arg.debug:
        config.model.depth = 1
        config.data.train_split = "train[:192]"
        config.loop.num_epochs = 4.0
        config.loop.log_every_steps = 2
        config.optimizer.warmup_epochs = 1.0
    return config
