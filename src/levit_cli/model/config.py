"""The architecture parameters of a LeViT (``LevitConfig``) and the five published variants (``VARIANTS``).

Values that follow from the widths are properties. MACs are counted as in the paper; see ``LevitConfig.macs``.
"""

from dataclasses import dataclass
from math import prod

from levit_cli.errors import RefusedError

PATCH_SIZE = 16  # four stride-2 convolutions
STEM_CONVS = 4
MLP_RATIO = 2
VALUE_RATIO = 2  # value channels per key channel of a head
SHRINK_VALUE_RATIO = 4  # value channels per key channel in a shrink block (paper, section 4.2)
SHRINK_STRIDE = 2
BATCH_NORM_EPS = 1e-5

Grid = tuple[int, int]


@dataclass(frozen=True)
class LevitConfig:
    """Widths and sizes of one LeViT (Graham et al. 2021, table 2).

    Args:
        hidden_sizes: channels C of each stage; the first is divisible by 8.
        key_dims: key channels D of a head, per stage; every shrink block uses the first, as in ``transformers``.
        num_heads: heads N per stage.
        depths: pairs of attention and MLP per stage.
        drop_path_rate: stochastic depth rate: probability of dropping a residual branch in training.
        num_classes: outputs of a head.
        image_size: (height, width) in pixels, multiples of 16.
        distilled: whether there is a second head for distillation.

    Raises:
        RefusedError: the values do not describe a LeViT.
    """

    hidden_sizes: tuple[int, ...]
    key_dims: tuple[int, ...]
    num_heads: tuple[int, ...]
    depths: tuple[int, ...]
    drop_path_rate: float = 0.0
    num_classes: int = 1000
    image_size: Grid = (224, 224)
    distilled: bool = True

    def __post_init__(self) -> None:
        for problem in _problems(self):
            raise RefusedError(f"The config does not describe a LeViT: {problem}", why=str(self))

    @property
    def num_stages(self) -> int:
        return len(self.hidden_sizes)

    @property
    def grids(self) -> tuple[Grid, ...]:
        """Tokens (rows, columns) in each stage: 14, 7 and 4 per side for 224 pixels."""
        grid = (self.image_size[0] // PATCH_SIZE, self.image_size[1] // PATCH_SIZE)
        grids = [grid]
        for _ in range(self.num_stages - 1):
            grid = shrunk(grid)
            grids.append(grid)
        return tuple(grids)

    @property
    def stem_widths(self) -> tuple[int, ...]:
        width = self.hidden_sizes[0]
        return (width // 8, width // 4, width // 2, width)

    @property
    def shrink_key_dim(self) -> int:
        return self.key_dims[0]

    def shrink_heads(self, stage: int) -> int:
        """Return the number of heads of the block that leads from ``stage - 1`` into ``stage``."""
        return self.hidden_sizes[stage - 1] // self.shrink_key_dim

    @property
    def head_names(self) -> tuple[str, ...]:
        return ("head", "head_dist") if self.distilled else ("head",)

    @property
    def macs(self) -> int:
        """Multiply-accumulates for one image through all heads, as in table 3 of the paper.

        The count covers convolutions, linear layers, both attention products and the scale of each attention logit.
        Batch norms, biases and activations are not counted.
        """
        heads = len(self.head_names) * self.hidden_sizes[-1] * self.num_classes
        return _stem_macs(self) + sum(_stage_macs(self, stage) for stage in range(self.num_stages)) + heads


def shrunk(grid: Grid) -> Grid:
    """Return the grid that keeps every second row and column of ``grid``, starting with the first."""
    rows, columns = grid
    return (-(-rows // SHRINK_STRIDE), -(-columns // SHRINK_STRIDE))


def _problems(config: LevitConfig) -> list[str]:
    lists = (config.hidden_sizes, config.key_dims, config.num_heads, config.depths)
    if not config.hidden_sizes or len({len(values) for values in lists}) != 1:
        return ["hidden_sizes, key_dims, num_heads and depths need one entry per stage"]
    problems = []
    if min(min(values) for values in lists) < 1 or config.num_classes < 1:
        problems.append("sizes must be positive")
    elif any(width % config.shrink_key_dim for width in config.hidden_sizes[:-1]):
        problems.append("the width before a shrink block must be a multiple of the first key dim")
    if config.hidden_sizes[0] % 8:
        problems.append("the first width must be a multiple of 8")
    if any(side < PATCH_SIZE or side % PATCH_SIZE for side in config.image_size):
        problems.append(f"image sides must be multiples of {PATCH_SIZE}")
    if not 0 <= config.drop_path_rate < 1:
        problems.append("drop_path_rate must be in [0, 1)")
    return problems


def _stem_macs(config: LevitConfig) -> int:
    macs, channels = 0, 3
    height, width = config.image_size
    for out_channels in config.stem_widths:
        height, width = height // 2, width // 2
        macs += height * width * out_channels * channels * 9
        channels = out_channels
    return macs


def _stage_macs(config: LevitConfig, stage: int) -> int:
    width, tokens = config.hidden_sizes[stage], prod(config.grids[stage])
    heads, key_dim = config.num_heads[stage], config.key_dims[stage]
    value_dim = VALUE_RATIO * key_dim
    qkv_and_proj = tokens * width * heads * (2 * key_dim + value_dim) + tokens * heads * value_dim * width
    attention = heads * tokens * tokens * (key_dim + 1 + value_dim)  # + 1: the scale
    block = qkv_and_proj + attention + _mlp_macs(tokens, width)
    return config.depths[stage] * block + (_shrink_macs(config, stage) if stage else 0)


def _shrink_macs(config: LevitConfig, stage: int) -> int:
    key_tokens, tokens = prod(config.grids[stage - 1]), prod(config.grids[stage])
    in_width, width = config.hidden_sizes[stage - 1], config.hidden_sizes[stage]
    heads, key_dim = config.shrink_heads(stage), config.shrink_key_dim
    value_dim = SHRINK_VALUE_RATIO * key_dim
    kv = key_tokens * in_width * heads * (key_dim + value_dim)
    q_and_proj = tokens * heads * (in_width * key_dim + value_dim * width)
    attention = heads * tokens * key_tokens * (key_dim + 1 + value_dim)
    return kv + q_and_proj + attention + _mlp_macs(tokens, width)


def _mlp_macs(tokens: int, width: int) -> int:
    return 2 * tokens * width * MLP_RATIO * width


VARIANTS: dict[str, LevitConfig] = {
    "levit-128S": LevitConfig((128, 256, 384), (16, 16, 16), (4, 6, 8), (2, 3, 4)),
    "levit-128": LevitConfig((128, 256, 384), (16, 16, 16), (4, 8, 12), (4, 4, 4)),
    "levit-192": LevitConfig((192, 288, 384), (32, 32, 32), (3, 5, 6), (4, 4, 4)),
    "levit-256": LevitConfig((256, 384, 512), (32, 32, 32), (4, 6, 8), (4, 4, 4)),
    "levit-384": LevitConfig((384, 512, 768), (32, 32, 32), (6, 9, 12), (4, 4, 4), drop_path_rate=0.1),
}


def variant_name(config: LevitConfig) -> str | None:
    """Return the published variant with these widths, heads and depths, or None.

    The classes, the image size, the drop path rate and the distillation head may differ.
    """
    for name, row in VARIANTS.items():
        if (row.hidden_sizes, row.key_dims, row.num_heads, row.depths) == (
            config.hidden_sizes,
            config.key_dims,
            config.num_heads,
            config.depths,
        ):
            return name
    return None
