"""A small convolutional network that ships inside the package: the vision encoder of ``petiole/tiny-vl``.

    image (3, 64, 64) -> 5 x 5 / 2 -> 32 x 32 x 48 -> 16 x 16 x 96 -> 8 x 8 x 128, + places -> 8 x 8 x 128
    layer: y = relu([x +] conv(x) + b),  x added where the shapes agree

As with CLIP's ResNets, every position of the last map is a token, and none is negative. It was trained on what lies where in
pictures of the generated world (``petiole.data.synthetic.scenes``); `benchmarks/tiny_vl` trained it, `docs/tiny-vl.md` says how good
it is. Its batch norms are folded into the convolutions. 563,120 parameters; ours, Apache-2.0.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from petiole.backbones.base import Backbone
from petiole.backbones.registry import LoadRequest, loader
from petiole.backbones.vision import cnn
from petiole.backbones.weights import load_strictly, read_safetensors
from petiole.data.preprocessing import Preprocessing

WEIGHTS = Path(__file__).parent.parent / "weights" / "tiny_grid.safetensors"
SIZE, GRID, WIDTH = 64, 8, 128
"""Pixels of a side, and positions and channels of the last map."""

Norm = Callable[[int], nn.Module]


class Layer(nn.Module):
    """One convolution with a norm and a ReLU, and a shortcut where nothing changes its shape."""

    def __init__(self, width: int, out: int, *, kernel: int, stride: int, norm: Norm) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, out, kernel, stride, padding=kernel // 2)
        self.norm = norm(out)
        self.shortcut = width == out and stride == 1

    def forward(self, x: Tensor) -> Tensor:
        """(B, c, H, W) -> (B, c', H / stride, W / stride)."""
        y = self.norm(self.conv(x))
        return torch.relu(x + y if self.shortcut else y)


class TinyGrid(nn.Module):
    """The architecture, with the methods of timm's networks.

    Args:
        norm: between convolution and ReLU, by channels; the packaged weights have none.
    """

    num_features = WIDTH
    feature_info = tuple({"module": name} for name in ("low", "middle", "high"))

    def __init__(self, norm: Norm = lambda _: nn.Identity()) -> None:
        super().__init__()

        def layer(width: int, out: int, stride: int = 1, kernel: int = 3) -> Layer:
            return Layer(width, out, kernel=kernel, stride=stride, norm=norm)

        self.low = nn.Sequential(layer(3, 48, 2, kernel=5), layer(48, 48))
        self.middle = nn.Sequential(layer(48, 96, 2), layer(96, 96))
        self.merge = layer(96, WIDTH, 2)
        self.places = nn.Parameter(torch.zeros(1, WIDTH, GRID, GRID))
        self.high = nn.Sequential(layer(WIDTH, WIDTH), layer(WIDTH, WIDTH))

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, 3, 64, 64) -> (B, 128, 8, 8), none negative."""
        last: Tensor = self.high(self.merge(self.middle(self.low(x))) + self.places)
        return last

    def forward_head(self, x: Tensor, *, pre_logits: bool = True) -> Tensor:  # noqa: ARG002 - there is no classifier
        """The mean over all positions, (B, 128)."""
        return x.mean(dim=(2, 3))

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, 64, 64) -> (B, 128)."""
        return self.forward_head(self.forward_features(x))


def preprocessing() -> Preprocessing:
    """Pictures as they are, scaled to [-1, 1]."""
    return Preprocessing.symmetric(SIZE)


@loader("petiole/tiny-grid")
def load(request: LoadRequest) -> Backbone:
    """The packaged network, or another training of the same architecture with --weights.

    Raises:
        BackboneError: another size is asked for, or weights do not fit.
    """
    request.fixed_size(SIZE)
    with torch.device("meta" if request.meta else "cpu"):
        module = TinyGrid()
    if not request.meta:
        file = request.weights or WEIGHTS
        load_strictly(module, read_safetensors(file), str(file))
    return cnn.wrap(request.name, module, preprocessing())
