"""DAT (version 1) and DAT++ (version 2) in eager PyTorch with torch's own operators: the benchmarks' rival and the tests' oracle.

Names and shapes of parameters and buffers are those of released checkpoints. Inside, maps are (B, H, W, C) so
that layer norms, projections and windows need no copies; images and `F.grid_sample` are channels first.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch_layers import MLP, ConvMLP, DropPath, LayerNorm, LayerScale, convolve, depthwise, embed, pointwise
from torch_mixers import DeformableAttention, LocalAttention, NeighborhoodAttention, PyramidAttention

CONVENTIONS = ("v1", "paper", "v2")
LETTERS = {1: "LSD", 2: "LSDNPX"}


def _config(num_classes: int, dims: list[int], **rest: Any) -> dict[str, Any]:
    """The released constructor's keywords, with everything that the released version 1 leaves unused switched off."""
    off = {"dwc_pes": False, "fixed_pes": False, "no_offs": False, "use_dwc_mlps": False, "sr_ratios": -1}
    per_stage = {name: [value] * len(dims) for name, value in off.items()}
    widths = {"num_classes": num_classes, "expansion": 4, "dim_stem": dims[0], "dims": dims}
    return {**widths, "use_conv_patches": False, **per_stage, **rest}


# fmt: off
DAT_CIFAR = _config(
    10, [48, 96, 192], img_size=32, patch_size=2, depths=[2, 2, 2], heads=[3, 6, 12], window_sizes=[4, 4, 4],
    groups=[-1, 2, 4], strides=[-1, 1, 1], offset_range_factor=[-1, 2, 2], ksizes=[-1, 5, 3],
    stage_spec=[["L", "S"], ["L", "D"], ["L", "D"]], use_pes=[False, True, True],
)
DAT_TINY = _config(
    1000, [96, 192, 384, 768], img_size=224, patch_size=4, depths=[2, 2, 6, 2], heads=[3, 6, 12, 24],
    window_sizes=[7, 7, 7, 7], groups=[-1, -1, 3, 6], strides=[-1, -1, 1, 1],
    offset_range_factor=[-1, -1, 2, 2], stage_spec=[["L", "S"], ["L", "S"], ["L", "D"] * 3, ["L", "D"]],
    use_pes=[False, False, True, True], drop_path_rate=0.2,
)
DAT_PP_TINY = _config(
    1000, [64, 128, 256, 512], version=2, img_size=224, patch_size=4, depths=[2, 4, 18, 2], heads=[2, 4, 8, 16],
    window_sizes=[7, 7, 7, 7], groups=[1, 2, 4, 8], strides=[8, 4, 2, 1], offset_range_factor=[-1, -1, -1, -1],
    stage_spec=[["N", "D"], ["N", "D"] * 2, ["N", "D"] * 9, ["D", "D"]], use_pes=[True] * 4, drop_path_rate=0.2,
    use_conv_patches=True, use_dwc_mlps=[True] * 4, use_lpus=[True] * 4, ksizes=[9, 7, 5, 3], nat_ksizes=[7] * 4,
    layer_scale_values=[-1] * 4, log_cpb=[False] * 4,
)
# fmt: on


class Stage(nn.Module):
    """Blocks on maps of one size, after a 1×1 convolution where the map has another width than they."""

    def __init__(
        self, c: Mapping[str, Any], i: int, dim_in: int, size: tuple[int, int], rates: list[float], convention: str
    ) -> None:
        super().__init__()
        dim, letters, version = c["dims"][i], c["stage_spec"][i], c.get("version", 1)
        scale, lpu = (c[name][i] if name in c else 0 for name in ("layer_scale_values", "use_lpus"))
        self.proj = nn.Conv2d(dim_in, dim, 1) if dim_in != dim else None
        self.ln_cnvnxt = nn.ModuleDict({str(j): LayerNorm(dim) for j, letter in enumerate(letters) if letter == "X"})
        norms = (letter != "X" for letter in letters for _ in range(2))
        self.layer_norms = nn.ModuleList(LayerNorm(dim) if norm else nn.Identity() for norm in norms)
        conv = c["use_dwc_mlps"][i]
        mlps = (ConvMLP(dim, c["expansion"], version) if conv else MLP(dim, c["expansion"]) for _ in letters)
        self.mlps = nn.ModuleList(mlps)
        self.attns = nn.ModuleList(_mixer(letter, c, i, size, convention) for letter in letters)
        self.drop_path = nn.ModuleList(DropPath(rate) for rate in rates)
        self.layer_scales = nn.ModuleList(
            LayerScale(dim, scale) if scale > 0 else nn.Identity() for _ in range(2 * len(letters))
        )
        self.local_perception_units = nn.ModuleList(depthwise(dim, 3) for _ in letters if lpu)

    def forward(self, x: Tensor) -> tuple[Tensor, list[tuple[Tensor, Tensor] | None]]:
        if self.proj is not None:
            x = pointwise(self.proj, x)
        points = []
        for j, (mixer, mlp, drop) in enumerate(zip(self.attns, self.mlps, self.drop_path, strict=True)):
            if self.local_perception_units:
                x = x + convolve(self.local_perception_units[j], x)
            if isinstance(mixer, nn.Conv2d):  # X
                x = x + drop(mlp(self.ln_cnvnxt[str(j)](convolve(mixer, x))))
                points.append(None)
                continue
            y, at = mixer(self.layer_norms[2 * j](x))
            x = x + drop(self.layer_scales[2 * j](y))
            x = x + drop(self.layer_scales[2 * j + 1](mlp(self.layer_norms[2 * j + 1](x))))
            points.append(at)
        return x, points


def _mixer(letter: str, c: Mapping[str, Any], i: int, size: tuple[int, int], convention: str) -> nn.Module:
    dim, heads, window = c["dims"][i], c["heads"][i], c["window_sizes"][i]
    match letter:
        case "D":
            return DeformableAttention(c, i, size, convention)
        case "N":
            return NeighborhoodAttention(dim, heads, c["nat_ksizes"][i])
        case "P":
            return PyramidAttention(dim, heads, c["sr_ratios"][i])
        case "X":
            return depthwise(dim, window)
    return LocalAttention(dim, heads, size, window, shifted=letter == "S")


def _stem(c: Mapping[str, Any]) -> nn.Sequential:
    dim, patch = c["dim_stem"], c["patch_size"]
    if c["use_conv_patches"] and c.get("version", 1) == 2:
        first = nn.Conv2d(3, dim // 2, 3, patch // 2, 1)
        second = nn.Conv2d(dim // 2, dim, 3, patch // 2, 1)
        return nn.Sequential(first, LayerNorm(dim // 2), nn.GELU(), second, LayerNorm(dim))
    k, padding = (7, 3) if c["use_conv_patches"] else (patch, 0)
    return nn.Sequential(nn.Conv2d(3, dim, k, patch, padding), LayerNorm(dim))


def _down(c: Mapping[str, Any], i: int) -> nn.Sequential:
    k, padding = (3, 1) if c["use_conv_patches"] else (2, 0)
    conv = nn.Conv2d(c["dims"][i], c["dims"][i + 1], k, 2, padding, bias=False)
    return nn.Sequential(conv, LayerNorm(c["dims"][i + 1]))


class TorchDAT(nn.Module):
    """DAT for classification.

    config: the released constructor's keywords, with `version` (1 by default, or 2). `ksizes`, the offset network's kernel
        size for each stage, is optional (default 9, 7, 5, 3) and works in version 1 too. img_size, for which tables and
        masks are made, may be a (height, width) pair; images of other sizes fit where their maps do.
    convention: how references, offsets and the bias's query grid are normalised and what limits the points: "v1", "v2",
        "paper"; by default the version's.
    Raises ValueError for an option or stage letter that this model does not have.
    """

    def __init__(self, config: Mapping[str, Any], convention: str | None = None) -> None:
        super().__init__()
        convention = convention or f"v{config.get('version', 1)}"
        _check(config, convention)
        c, dims = config, config["dims"]
        size = (c["img_size"],) * 2 if isinstance(c["img_size"], int) else tuple(c["img_size"])
        size = size[0] // c["patch_size"], size[1] // c["patch_size"]
        blocks = sum(c["depths"])
        rates = [c.get("drop_path_rate", 0.0) * block / max(blocks - 1, 1) for block in range(blocks)]
        self.patch_proj = _stem(c)
        self.stages = nn.ModuleList()
        for i, dim in enumerate(dims):
            stage_rates, rates = rates[: c["depths"][i]], rates[c["depths"][i] :]
            self.stages.append(Stage(c, i, dim if i else c["dim_stem"], size, stage_rates, convention))
            size = size[0] // 2, size[1] // 2
        self.down_projs = nn.ModuleList(_down(c, i) for i in range(len(dims) - 1))
        self.cls_norm = LayerNorm(dims[-1])
        self.cls_head = nn.Linear(dims[-1], c["num_classes"])

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) images to (B, num_classes) logits."""
        return self.forward_with_points(x)[0]

    def forward_with_points(self, x: Tensor) -> tuple[Tensor, list, list]:
        """Logits, positions[stage][block], references[stage][block]: (B, G, Hk, Wk, 2), or None for other blocks than D."""
        x = embed(self.patch_proj, x.permute(0, 2, 3, 1).contiguous())
        points = []
        for i, stage in enumerate(self.stages):
            x, at = stage(x)
            points.append(at)
            if i < len(self.down_projs):
                x = embed(self.down_projs[i], x)
        logits = self.cls_head(self.cls_norm(x).mean((1, 2)))
        positions, references = ([[p and p[n] for p in stage] for stage in points] for n in (0, 1))
        return logits, positions, references


def _check(c: Mapping[str, Any], convention: str) -> None:
    if convention not in CONVENTIONS:
        raise ValueError(f"convention {convention!r}: expected one of {CONVENTIONS}")
    if (version := c.get("version", 1)) not in LETTERS:
        raise ValueError(f"config: version {version}; only versions 1 and 2 are written here")
    for name in ("drop_rate", "attn_drop_rate"):
        if c.get(name, 0):
            raise ValueError(f"config: {name}={c[name]} is not supported")
    for i, spec in enumerate(c["stage_spec"]):
        letters = LETTERS[version]
        if set(spec) - set(letters) or len(spec) != c["depths"][i]:
            raise ValueError(
                f"config: stage_spec[{i}]={spec}; expected {c['depths'][i]} of the letters {', '.join(letters)}"
            )
        if "D" in spec and convention == "paper" and (span := c["offset_range_factor"][i]) <= 0:
            raise ValueError(f"config: offset_range_factor[{i}]={span} must be positive")
        if "X" in spec and (scale := c.get("layer_scale_values", [0] * (i + 1))[i]) > 0:
            raise ValueError(f"config: layer_scale_values[{i}]={scale}; an X block has no layer scale")
