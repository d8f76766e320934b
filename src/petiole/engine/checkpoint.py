"""Where a run stands, in one safetensors file: trained tensors, optimiser moments, step."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from petiole.errors import RunError
from petiole.files import read_tensors, write_tensors


def save(
    path: Path, step: int, request: str, model: nn.Module, optimizer: torch.optim.Optimizer
) -> None:
    """Write atomically what ``load`` needs to go on after ``step`` steps.

    Args:
        request: digest of everything that decides the run; another one is refused at loading.
    """
    tensors = {f"model.{k}": v for k, v in model.state_dict().items()}
    for index, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": torch.as_tensor(v) for name, v in moments.items()}
    write_tensors(path, tensors, {"step": str(step), "request": request})


def load(path: Path, request: str, model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Restore model and optimiser; returns the number of finished steps.

    Raises:
        RunError: the file is damaged or belongs to another request.
    """
    try:
        tensors, metadata = read_tensors(path)
        if metadata["request"] != request:
            raise RunError(
                f"{path} belongs to a run with other settings, data or weights. Repeat the command "
                "with the same ones, or choose another --out."
            )
        model.load_state_dict(_under("model.", tensors))
        state: dict[int, dict[str, torch.Tensor]] = {}
        for name, value in _under("optimizer.", tensors).items():
            index, _, moment = name.partition(".")
            state.setdefault(int(index), {})[moment] = value.clone()  # off the mapped file
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": state, "param_groups": groups})
        step = int(metadata["step"])
        if step < 0:
            raise ValueError(f"its step is {step}")
        return step
    except RunError:
        raise
    except Exception as error:
        raise RunError(
            f"{path} is damaged ({type(error).__name__}: {str(error)[:200]}). Delete this file to "
            "train from the start."
        ) from error


def _under(prefix: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
