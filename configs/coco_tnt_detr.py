r"""DETR on TNT-S, trained on COCO 2017 for 50 epochs.

    python train.py --config=configs/coco_tnt_detr.py --workdir=runs/coco_tnt_detr \
        --config.init_from=tnt_s_patch16_224.official

Argument: debug. The paper (arXiv 2103.00112v3, section 4.3 and table 10) has AP 38.2 with it, 39 M
parameters, and says: the settings of PVT, 2x2 average pooling after TNT, AdamW, batch 16, 50
epochs; shorter side 640 to 800, longer at most 1333. The rest is from PVT (arXiv 2102.12122,
section 5.2, and its detection/configs), which trains DETR as its authors do.
"""

from configs.common import detection_config, parse_argument, shrink


def get_config(argument: str | None = None):
    arg = parse_argument(argument)
    config = detection_config()
    config.init_from = ""

    config.model.name = "tnt_s_patch16_224"
    config.model.drop_path_rate = 0.0  # not said; DETR has dropout
    config.model.dtype = "float32"
    config.model.remat = "block"

    config.detector.pool = 2
    config.detector.num_queries = 100

    config.data.name = "coco/2017"
    # Holds any image of 800 x 1333 in both orientations; sides of 32 pixels as in PVT.
    config.data.image_size = 1344
    config.data.batch_size = 16
    config.data.eval_batch_size = 16
    config.data.eval_split = "validation"
    config.data.eval_short_side = 800
    config.data.eval_longest_side = 1333
    config.data.max_objects = 100
    config.data.mean = (0.5, 0.5, 0.5)  # TNT's weights
    config.data.std = (0.5, 0.5, 0.5)

    config.augment.flip = {}
    config.augment.random_resize = {
        "short_sides": (640, 672, 704, 736, 768, 800),
        "longest_side": 1333,
    }

    config.optimizer.base_lr = 1e-4
    config.optimizer.schedule = "steps"
    config.optimizer.step_epochs = (33.0,)
    config.optimizer.weight_decay = 1e-4
    config.optimizer.grad_clip_norm = 0.1
    config.optimizer.slow = ("^backbone/",)  # 1e-5, as DETR's --lr_backbone
    config.optimizer.slow_factor = 0.1

    config.loop.num_epochs = 50.0
    config.loop.log_every_steps = 500  # ours, as the next two
    config.loop.evaluate_every_epochs = 5.0
    config.loop.save_every_epochs = 1.0
    if arg.debug:
        shrink(config, image_size=64)
        config.data.name = "digits_scenes"
        config.data.max_objects = 6
        config.data.mean = config.data.std = None
        config.model.depth = 2
        config.detector.update(dim=32, mlp_dim=64, num_encoder_layers=1, num_decoder_layers=1)
        config.detector.num_queries = 10
        config.data.eval_short_side = None
    return config
