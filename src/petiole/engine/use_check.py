"""An attachment that never fires is an error: what is declared is called and has a gradient, or the run stops.

A backbone that computes past a module (say, one that multiplies with ``qkv.weight`` and never calls ``qkv``) would
train its head alone, and nobody would notice.

Each module says by an attribute ``used_within`` how soon it must have been used: ``step`` (the default) in the first
step; ``pass`` in the first pass over the data (a layer of one of several tasks); ``run`` whenever it likes (paths drawn
at random, losses that start late), which is not checked. The most patient of a module and those around it counts.
A gradient of zero is a gradient: A behind B = 0 has one. Tuned copies are checked together, one for all: full
fine-tuning copies whatever a network holds, also what its forward never reads (a mask token).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from torch import nn
from torch.utils.hooks import RemovableHandle

from petiole.engine.adapted_model import AdaptedModel
from petiole.errors import RunError

PATIENCE = ("step", "pass", "run")


class UseCheck:
    """Watches the first steps of a training, also of a resumed one: a context.

    Args:
        loss_module: all that is trained.
        a_pass: steps of a pass over the data.
    """

    def __init__(self, loss_module: nn.Module, a_pass: int) -> None:
        self._deadline = {"step": 1, "pass": max(1, a_pass)}
        patience = _patience(loss_module)
        self._idle: dict[str, tuple[str, list[nn.Parameter]]] = {}
        for name, parameters in _declared(loss_module):
            kind = patience[name.rpartition(".")[0]]
            if kind != "run":
                self._idle[name] = kind, parameters
        self._handles: list[RemovableHandle] = []
        self._steps = 0
        self._uncalled: dict[str, str] = {}
        self._roles = _roles(loss_module)
        if any(getattr(module, "compiled", False) for module in loss_module.modules()):
            return  # hooks would be compiled in; gradients say nearly the same
        modules = dict(loss_module.named_modules(remove_duplicate=False))
        for path in self._roles:
            if patience[path] != "run":
                self._uncalled[path] = patience[path]
                self._handles.append(modules[path].register_forward_hook(self._noting(path)))

    def __enter__(self) -> UseCheck:
        return self

    def __exit__(self, *_: object) -> None:
        while self._handles:
            self._handles.pop().remove()

    def after_backward(self) -> None:
        """Look at the gradients of a step, before they are cleared; nearly free once all has been used.

        Raises:
            RunError: something is still unused at the end of its time.
        """
        if not self._idle and not self._uncalled:
            return
        self._steps += 1
        fired = [n for n, (_, ps) in self._idle.items() if any(p.grad is not None for p in ps)]
        for name in fired:
            del self._idle[name]
        due = [kind for kind, last in self._deadline.items() if self._steps >= last]
        layers = [path for path, kind in self._uncalled.items() if kind in due]
        names = [name for name, (kind, _) in self._idle.items() if kind in due]
        if layers or names:
            raise RunError(self._message(layers, names))
        if not self._uncalled:
            self.__exit__()

    def _noting(self, path: str) -> Callable[..., None]:
        def note(_: nn.Module, __: object, ___: object) -> None:
            self._uncalled.pop(path, None)

        return note

    def _message(self, layers: list[str], names: list[str]) -> str:
        parts = []
        if layers:
            roles = [self._roles[path] for path in layers]
            parts.append(
                f"{_few(roles)}: attached, but the backbone never called a module there. It may "
                "compute past it (a fused or functional form): choose other roles, or describe the backbone's "
                "sites where values pass"
            )
        mute = [n for n in names if not any(n.startswith(f"{path}.") for path in layers)]
        if mute:
            parts.append(
                f"{_few(mute)}: trained, but the loss does not depend on it. Leave it out of the plan, freeze it, or "
                'state used_within = "pass" or "run" on its module if it takes part later'
            )
        when = "the first step" if self._steps == 1 else f"the first {self._steps} steps"
        return f"Not all that the method declares was used in {when}. " + ". ".join(parts) + "."


def _declared(loss_module: nn.Module) -> Iterator[tuple[str, list[nn.Parameter]]]:
    """Trained parameters by name; the tuned copies of a network together."""
    copies = {
        f"{name}.tuned" if name else "tuned"
        for name, module in loss_module.named_modules()
        if isinstance(module, AdaptedModel)
    }
    together: dict[str, list[nn.Parameter]] = {}
    for name, parameter in loss_module.named_parameters():
        if parameter.requires_grad:
            owner = name.rpartition(".")[0]
            together.setdefault(f"{owner}.*" if owner in copies else name, []).append(parameter)
    yield from together.items()


def _roles(loss_module: nn.Module) -> dict[str, str]:
    """Path of each attached layer -> where it is attached, in words."""
    found = {}
    for name, module in loss_module.named_modules():
        if isinstance(module, AdaptedModel):
            attachments = zip(module.attach.items(), module.changes.attach, strict=True)
            for (key, layer), attachment in attachments:
                path = f"{name}.attach.{key}" if name else f"attach.{key}"
                found[path] = (
                    f"{type(layer).__name__} at role {attachment.role} of {module.frozen.name}"
                )
    return found


def _patience(loss_module: nn.Module) -> dict[str, str]:
    """Path of every module -> the most patient ``used_within`` from the root down to it."""
    found: dict[str, str] = {}
    for path, module in loss_module.named_modules(remove_duplicate=False):
        around = found.get(path.rpartition(".")[0], "step")
        found[path] = max(around, str(getattr(module, "used_within", "step")), key=PATIENCE.index)
    return found


def _few(names: list[str], count: int = 4) -> str:
    rest = len(names) - count
    return ", ".join(names[:count]) + (f" and {rest} more" if rest > 0 else "")
