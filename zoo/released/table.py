"""The released weights that have a name here.

A name is a model of zoo/registry.py, a dot, and who released the file. What is not known is None:
nobody has downloaded these files here, so that sizes and hashes are those that the sources show.
"""

import dataclasses

MARK = "{checkpoint}"  # in a file's name: the checkpoint that the file `checkpoint` before it names


@dataclasses.dataclass(frozen=True)
class File:
    """One file of released weights.

    Attributes:
        url: where it is.
        name: in the cache; the readers go by its ending, and of timm's NesT by its beginning.
        sha256: of its contents, or the first digits of it; None: not published.
        size: in words, as its source shows it; None: not published.
    """

    url: str
    name: str
    sha256: str | None = None
    size: str | None = None


@dataclasses.dataclass(frozen=True)
class Released:
    """Released weights.

    Attributes:
        model: key of zoo.registry.MODELS.
        files: one, or those of a folder in the order in which they are fetched.
        licence: SPDX identifier.
        source: where all this is written.
        is_folder: whether the files are one checkpoint in a folder.
        fields: of the model, where the file needs other ones than the variant's.
    """

    model: str
    files: tuple[File, ...]
    licence: str
    source: str
    is_folder: bool = False
    fields: tuple[tuple[str, str], ...] = ()


def _official_nest(letter: str, size: str | None = None) -> Released:
    # The address of public objects is that of cloud.google.com/storage/docs/access-public-data.
    folder = f"https://storage.googleapis.com/gresearch/nest-checkpoints/nest-{letter}_imagenet"
    names = ("checkpoint", f"{MARK}.flax")
    sizes = (None, size)
    return Released(
        model={"t": "nest_tiny", "s": "nest_small", "b": "nest_base"}[letter] + "_s196_224",
        files=tuple(File(f"{folder}/{n}", n, size=s) for n, s in zip(names, sizes, strict=True)),
        licence="Apache-2.0",
        source="google-research/nested-transformer, README.md and colab.ipynb (59c0d6a)",
        is_folder=True,
    )


def _timm(model: str, timm_name: str, **known: str) -> Released:
    # The address is the one that huggingface_hub makes of repository and file.
    url = f"https://huggingface.co/timm/{timm_name}/resolve/main/model.safetensors"
    source = f"timm 1.0.31, models/{timm_name.split('_')[0]}.py"
    if known:
        source += "; hash and size: the file's page on huggingface.co"
    fields = (("gelu", "exact"),) if model.startswith("nest") else ()
    file = File(url, f"{timm_name}.safetensors", **known)
    return Released(model, (file,), "Apache-2.0", source, fields=fields)


def _official_tnt(size: str, accuracy: str) -> Released:
    name = f"tnt_{size}_{accuracy}.pth.tar"
    releases = "https://github.com/huawei-noah/Efficient-AI-Backbones/releases/download/tnt"
    return Released(
        model=f"tnt_{size}_patch16_224",
        files=(File(f"{releases}/{name}", name),),
        licence="Apache-2.0",
        source="timm 1.0.31, models/tnt.py (a comment); licence: that of timm's copy",
    )


RELEASED: dict[str, Released] = {
    "nest_tiny_s196_224.official": _official_nest("t"),
    "nest_small_s196_224.official": _official_nest("s"),
    "nest_base_s196_224.official": _official_nest("b", "775.1 MiB"),
    "nest_tiny_s196_224.timm": _timm(
        "nest_tiny_s196_224",
        "nest_tiny_jx.goog_in1k",
        sha256="d0e64db0a4a84bccd4239da6128160724e50b43115fabfe073c3d0caae673d91",
        size="68.2 MB",
    ),
    "nest_small_s196_224.timm": _timm("nest_small_s196_224", "nest_small_jx.goog_in1k"),
    "nest_base_s196_224.timm": _timm(
        "nest_base_s196_224",
        "nest_base_jx.goog_in1k",
        sha256="2135f8a9ec02491f04255e7112a237cefd4986ebc478132f8ec31e5d6a2f6815",
        size="271 MB",
    ),
    "tnt_s_patch16_224.official": _official_tnt("s", "81.5"),
    "tnt_b_patch16_224.official": _official_tnt("b", "82.9"),
    "tnt_s_patch16_224.timm": _timm("tnt_s_patch16_224", "tnt_s_patch16_224.in1k"),
    "tnt_b_patch16_224.timm": _timm("tnt_b_patch16_224", "tnt_b_patch16_224.in1k"),
    "tnt_s_legacy_patch16_224.timm": _timm(
        "tnt_s_legacy_patch16_224", "tnt_s_legacy_patch16_224.in1k"
    ),
    "tnt_s_legacy_patch16_224.mmpretrain": Released(
        model="tnt_s_legacy_patch16_224",
        files=(
            File(
                "https://download.openmmlab.com/mmclassification/v0/tnt/"
                "tnt-small-p16_3rdparty_in1k_20210903-c56ee7df.pth",
                "tnt-small-p16_3rdparty_in1k_20210903-c56ee7df.pth",
                sha256="c56ee7df",  # OpenMMLab ends its names with the first digits
            ),
        ),
        licence="Apache-2.0",
        source="open-mmlab/mmpretrain, configs/tnt/README.md",
    ),
}
