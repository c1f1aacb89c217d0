r"""Trans2Seg's decoder on TNT-S, trained on ADE20K for 40,000 steps.

    python train.py --config=configs/ade20k_tnt.py --workdir=runs/ade20k_tnt \
        --config.data.name=masks:/data/ADEChallengeData2016 \
        --config.init_from=tnt_s_patch16_224.official

Argument: debug. The paper (arXiv 2103.00112v3, section 4.3 and table 11) has 43.6 % mIoU and
says: AdamW, a rate of 1e-4 with polynomial decay, random resizing, crops of 512 x 512, all else as
in PVT. PVT (arXiv 2102.12122, section 5.3) adds: power 0.9, batch 16, 40,000 steps, weights of
ImageNet. The settings of the decoder are in neither: they are those of Trans2Seg's released code.
Where we knowingly differ: docs/segmentation.md.
"""

from configs.common import parse_argument, segmentation_config, shrink

_NUM_IMAGES = 20_210


def get_config(argument: str | None = None):
    arg = parse_argument(argument)
    config = segmentation_config()
    config.init_from = ""

    config.model.name = "tnt_s_patch16_224"
    config.model.drop_path_rate = 0.1  # TNT's in training on ImageNet; not said
    config.model.dtype = "float32"
    config.model.remat = "none"

    config.data.name = "masks:"
    config.data.ignore_label = 0  # "other objects"; the 150 classes are 1 to 150
    config.data.image_size = 512
    config.data.batch_size = 16
    config.data.eval_batch_size = 16
    config.data.eval_split = "validation"
    config.data.mean = (0.5, 0.5, 0.5)  # TNT's weights
    config.data.std = (0.5, 0.5, 0.5)

    # The factors are those of most codes for ADE20K; not said.
    config.augment.random_scale_crop = {"short_side": 512, "scale": (0.5, 2.0)}
    config.augment.flip = {}

    config.optimizer.base_lr = 1e-4
    config.optimizer.schedule = "poly"
    config.optimizer.poly_power = 0.9
    config.optimizer.weight_decay = 1e-4  # PVT's for its other head on ADE20K; not said for this
    config.optimizer.decay_exclude = (
        "_position/embedding$",
        "class_token$",
        "class_embedding$",
        "/bias$",
        "/scale$",
    )

    config.loop.num_epochs = 40_000 * 16 / _NUM_IMAGES
    config.loop.log_every_steps = 500  # ours, as the next two
    config.loop.evaluate_every_epochs = 4.0
    config.loop.save_every_epochs = 1.0
    if arg.debug:
        shrink(config, image_size=64)
        config.data.name = "digits_scenes"
        config.data.ignore_label = 255
        config.data.mean = config.data.std = None
        config.model.depth = 2
        config.decoder.update(dim=32, num_layers=2, num_heads=4, mask_dim=16)
    return config
