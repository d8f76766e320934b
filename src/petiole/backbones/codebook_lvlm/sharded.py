"""A language model spread over the processes that train together: fully sharded data parallelism (FSDP2 of torch; Zhao et al., VLDB 2023).

Each process keeps 1 / n of the numbers of every block. Before a block computes, forwards or backwards, its weights are gathered, and
given back afterwards, so a process holds its share and one whole block. Words, norm, scores, projector and tower stay whole.
Nothing in the blocks is trained, so no gradient of theirs is exchanged.
"""

from __future__ import annotations

import torch

from petiole.backbones.codebook_lvlm import causal
from petiole.backbones.codebook_lvlm.model import LVLM
from petiole.collective import opened
from petiole.errors import ConfigError
from petiole.layers.packed import is_packed
from petiole.processes import world


def shard(model: LVLM, device: str) -> None:
    """Spread the blocks of the language model over all processes, in place.

    From now on the model answers, or has a gradient, only where all processes take part.

    Args:
        model: on the CPU or on ``device``, the same in every process.
        device: where it computes.

    Raises:
        ConfigError: this process is alone, or weights are stored as integers.
    """
    if not opened():
        raise ConfigError(
            "--fsdp spreads the language model over several processes, and this is one. Start them with torchrun "
            "--nproc-per-node 2 -m petiole fit ..., or leave --fsdp out."
        )
    blocks = causal.blocks(model.module.language)[1]
    if any(is_packed(weight) for weight in blocks.parameters()):
        raise ConfigError(
            f"{model.name} has weights that are stored as {model.quantized or 'integers'}, which are not spread. Leave --fsdp out."
        )
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    _ = model.fingerprint  # of whole weights, while they are
    mesh = init_device_mesh(torch.device(device).type, (world(),))
    for block in blocks:
        # The blocks have no common root: words are looked up beside the language model's own forward.
        fully_shard(block, mesh=mesh, reshard_after_forward=True)
    model.module.to(device)
    model.sharded = True


def held(model: LVLM) -> str:
    """What this process keeps of a language model that is spread, for people; empty of one that is not."""
    if not model.sharded:
        return ""
    from torch.distributed.tensor import DTensor

    weights = list(model.module.language.parameters())
    own = [weight.to_local() if isinstance(weight, DTensor) else weight for weight in weights]
    part, whole = (sum(weight.nbytes for weight in some) / 1e6 for some in (own, weights))
    return f"each of {world()} processes keeps {part:,.1f} of the {whole:,.1f} MB of {model.name}'s language model"
