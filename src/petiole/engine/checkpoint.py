"""Where a run stands, in one safetensors file: trained tensors, optimiser moments, step."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from petiole.files import write_tensors
from petiole.errors import RunError


def save(path: Path, step: int, request: str, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
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
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise RunError(f"{path} is damaged ({error}). Delete the run folder and start again.") from error
    if metadata["request"] != request:
        raise RunError(
            f"{path} belongs to a run with other settings, data or weights. Repeat the command with "
            "the same ones, or choose another --out."
        )
    model.load_state_dict(
        {k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")}
    )
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, index, moment = name.split(".", 2)
            state.setdefault(int(index), {})[moment] = value
    optimizer.load_state_dict(
        {"state": state, "param_groups": optimizer.state_dict()["param_groups"]}
    )
    return int(metadata["step"])
