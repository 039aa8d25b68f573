"""The released constructor's keywords as a configuration of ours.

Source: the constructors of the released DAT v1 (tag CVPR2022) and v2 (DAT++).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from minidat.attention import Offsets
from minidat.models.config import Config, StageConfig

KERNELS, RANGES, REDUCTIONS = (9, 7, 5, 3), (1, 2, 3, 4), (8, 4, 2, 1)
"""Released defaults by stage: the offset network's kernel, which v1 cannot change, the range factor, PVT's reduction."""


def translate(config: Mapping[str, Any]) -> Config:
    """The released constructor's keywords as a Config. Options that crash there do here what they say."""
    version = config.get("version", 1)
    if version not in (1, 2):
        raise ValueError(f"released version {version} is not supported; supported: 1, 2")
    for name in ("drop_rate", "attn_drop_rate"):
        if config.get(name, 0):
            raise ValueError(f"{name}={config[name]} is not supported: there is no dropout here but drop path")
    convolutions = bool(config.get("use_conv_patches", False))
    stem = "patch" if not convolutions else "overlap" if version == 1 else "conv"
    image, patch = config["img_size"], config["patch_size"]
    # two strides of patch // 2: patch itself only where that is 4
    stride = (patch // 2) ** 2 if stem == "conv" else patch
    return Config(
        image=image,
        patch=stride,
        classes=config["num_classes"],
        stages=tuple(_stage(config, version, i) for i in range(len(config["dims"]))),
        drop_path=config.get("drop_path_rate", 0.0),
        convention=f"v{version}",
        stem=stem,
        stem_dim=config["dim_stem"],
        tables=image // patch * stride if convolutions else None,
    )


def _stage(config: Mapping[str, Any], version: int, i: int) -> StageConfig:
    def option(key: str, default: Any = False) -> Any:
        return config[key][i] if key in config else default

    letters = tuple(config["stage_spec"][i])
    scale = option("layer_scale_values", -1)
    if "D" in letters and min(option("groups"), option("strides")) < 1:
        raise ValueError(
            f"stage {i} has a D block, but groups {option('groups')} and strides {option('strides')}: "
            "−1 marks a stage without one; both must be at least 1"
        )
    if "X" in letters and scale > 0:
        raise ValueError(
            f"stage {i} has an X block and layer_scale_values {scale}: the released X block makes a layer scale and does "
            "not use it, ours uses it; give −1"
        )

    def of(letter: str, value: int) -> int:
        """An option of blocks with this letter. Where a stage has none, −1 and 0 mark an option that is not used."""
        return value if set(letter) & set(letters) else max(value, 1)

    s = option("offset_range_factor", RANGES[i])
    learned = not option("no_offs")
    stride = max(option("strides", 1), 1)
    kernel = of("D", option("ksizes", KERNELS[i]) if version == 2 else KERNELS[i])
    residual = "residual conv" if version == 2 else "conv"
    return StageConfig(
        dim=config["dims"][i],
        heads=config["heads"][i],
        mixers=letters,
        window=of("LSX", config["window_sizes"][i]),
        neighborhood=of("N", option("nat_ksizes", 3)),
        reduction=max(option("sr_ratios", REDUCTIONS[i]), 1),
        groups=max(option("groups", 1), 1),
        offsets=Offsets(
            stride,
            kernel,
            padding=0 if version == 2 and kernel == stride else None,  # whole cells
            range_factor=s,
            limit=_limit(s, version),
            learned=learned,
        ),
        position=_position(option, version, learned),
        expansion=config["expansion"],
        mlp=residual if option("use_dwc_mlps") else "plain",
        lpu=bool(option("use_lpus")),
        layer_scale=max(scale, 0.0),
    )


def _limit(s: float, version: int) -> str:
    if version == 1:
        return "tanh" if s > 0 else "none" if s == 0 else "squash"
    return "tanh" if s >= 0 else "clamp"


def _position(option: Any, version: int, learned: bool) -> str:
    if not option("use_pes"):
        return "none"
    if option("dwc_pes"):
        return "depthwise"
    if version == 2 and not learned:
        return "none"
    return "fixed" if option("fixed_pes") else "log" if option("log_cpb") else "relative"
