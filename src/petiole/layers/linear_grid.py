"""A linear head whose learning rate and input are chosen on held-back images, as in DINOv2's probe.

    W_c, b_c <- argmin  mean_i w_i CE(W_c x_i[c] + b_c, y_i)      for every candidate c = (input, rate)

All candidates are trained at once, by plain SGD with momentum 0.9 and a cosine to 0 on the same batches
(Oquab et al., 2024; their eval/linear.py): rates {1, 2, 5} x 10^-5 ... 10^-1 at a batch of 256, scaled
with the batch. The one of the least log-loss on target images, each held back in one of five folds, is trained again on
all.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot

from petiole.errors import ConfigError
from petiole.layers.checks import positive
from petiole.layers.grid import remarks_on
from petiole.layers.solved import SolvedLinear, domain_weights, judging

RATES = (*(m * 10.0**e for e in range(-5, -1) for m in (1, 2, 5)), 0.1)
MOMENTUM = 0.9
BATCH = 256


class LinearGridHead(SolvedLinear):
    """z = W x + b; of x only the chosen input's columns have weights.

    Args:
        width: size of x.
        classes: K.
        inputs: the columns of x of each candidate input.
        rates: learning rates at a batch of 256.
        iterations: SGD steps (DINOv2: 10 epochs of 1,250).
        folds: parts of the target images that are held back in turn; with fewer than two images of a class nothing
            can be, and the first input with the middle rate is taken.
    """

    def __init__(
        self,
        width: int,
        classes: int,
        inputs: Sequence[slice],
        rates: Sequence[float] = RATES,
        iterations: int = 1250,
        folds: int = 5,
    ) -> None:
        super().__init__(width, classes)
        positive(iterations=iterations)
        if not rates or not min(rates) > 0:
            raise ConfigError(f"The learning rates must be positive, not {tuple(rates)}.")
        self.inputs, self.rates = tuple(inputs), tuple(rates)
        self.iterations, self.folds = iterations, folds
        self.register_buffer("chosen_input", torch.tensor(0))
        self.register_buffer("chosen_rate", torch.tensor(0.0))

    def solve(self, x: Tensor, y: Tensor, is_target: Tensor) -> None:
        weights = domain_weights(is_target).to(x)
        judged = torch.nonzero(judging(is_target)).flatten()
        chosen = self._choose(x, y, weights, judged)
        columns, rate = self.inputs[chosen[0]], chosen[1]
        weight, bias = self._train(x, y, weights, {chosen[0]: (rate,)})[chosen[0]]
        self.weight.zero_()
        self.weight[:, columns] = weight[0]
        self.bias.copy_(bias[0])
        self.chosen_input, self.chosen_rate = torch.tensor(chosen[0]), torch.tensor(rate)

    def remarks(self) -> list[str]:
        return remarks_on("learning rate", self.rates, float(self.chosen_rate))

    def _choose(self, x: Tensor, y: Tensor, weights: Tensor, judged: Tensor) -> tuple[int, float]:
        """The candidate of the least log-loss over all folds; the lower rate and earlier input of equals."""
        from sklearn.model_selection import StratifiedKFold

        counts = torch.bincount(y[judged])
        folds = min(self.folds, int(counts[counts > 0].min()))
        if folds < 2:
            return 0, self.rates[len(self.rates) // 2]
        labels = y[judged].cpu().numpy()
        grid = dict.fromkeys(range(len(self.inputs)), self.rates)
        losses = np.zeros((len(self.inputs), len(self.rates)))
        for _, rows in StratifiedKFold(folds, shuffle=True, random_state=0).split(labels, labels):
            held = judged[torch.from_numpy(rows).to(judged.device)]
            kept = torch.ones(len(y), dtype=torch.bool, device=x.device)
            kept[held] = False
            for i, (weight, bias) in self._train(x[kept], y[kept], weights[kept], grid).items():
                inputs = x[held, self.inputs[i]]
                logits = torch.einsum("nd,ckd->cnk", inputs, weight) + bias[:, None]
                again = y[held].expand(len(self.rates), -1)
                loss = cross_entropy(logits.flatten(0, 1), again.flatten(), reduction="none")
                losses[i] += loss.view(len(self.rates), -1).sum(1).cpu().numpy()
        best = np.unravel_index(losses.argmin(), losses.shape)
        return int(best[0]), self.rates[int(best[1])]

    def _train(
        self, x: Tensor, y: Tensor, weights: Tensor, grid: Mapping[int, Sequence[float]]
    ) -> dict[int, tuple[Tensor, Tensor]]:
        """Weights (C, K, d_i) and biases (C, K) of every rate, by input."""
        batch = min(BATCH, len(x))
        solvers = {
            i: _Momentum(x[:1, self.inputs[i]], self.classes, rates, batch / BATCH)
            for i, rates in grid.items()
        }
        targets = one_hot(y, self.classes).to(x)
        order = torch.randperm(len(x), device=x.device)
        for step in range(self.iterations):
            if len(order) < batch:
                order = torch.randperm(len(x), device=x.device)
            rows, order = order.tensor_split([batch])
            decay = (1 + math.cos(math.pi * step / self.iterations)) / 2
            for i, solver in solvers.items():
                solver.step(x[rows, self.inputs[i]], targets[rows], weights[rows], decay)
        return {i: (solver.weight, solver.bias) for i, solver in solvers.items()}


class _Momentum:
    """Softmax regression by SGD with momentum, one model for each rate, gradients by hand."""

    def __init__(self, like: Tensor, classes: int, rates: Sequence[float], scale: float) -> None:
        width = like.shape[-1]
        self.rates = scale * like.new_tensor(rates).view(-1, 1, 1)
        self.weight = 0.01 * like.new_empty(classes, width).normal_().repeat(len(rates), 1, 1)
        self.bias = like.new_zeros(len(rates), classes)
        self._speeds = torch.zeros_like(self.weight), torch.zeros_like(self.bias)

    def step(self, x: Tensor, targets: Tensor, weights: Tensor, decay: float) -> None:
        flat = self.weight.flatten(0, 1)
        logits = (x @ flat.T).view(len(x), *self.bias.shape) + self.bias
        error = (logits.softmax(-1) - targets[:, None]) * (weights / len(x))[:, None, None]
        slopes = (error.flatten(1).T @ x).view_as(self.weight), error.sum(0)
        rates = self.rates, self.rates[:, 0]
        for value, speed, slope, rate in zip(
            (self.weight, self.bias), self._speeds, slopes, rates, strict=True
        ):
            speed.mul_(MOMENTUM).add_(slope)
            value.sub_(decay * rate * speed)
