"""Every method of the library peft that fits a vision tower, as ``peft:<type>``.

peft's own layers, initialisation and settings; ours are the blocks that they go to, the head and the
recipe. They answer in the place of the backbone's modules (see ``layers.injected``), so the backbone
stays untouched. What prompts a language model, or needs a training loop of its own, is refused.
"""

from __future__ import annotations

import json
from dataclasses import Field, dataclass, field, fields, make_dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from torch import nn

from petiole.backbones.base import Backbone
from petiole.errors import ConfigError, unknown
from petiole.layers.heads import LinearHead
from petiole.layers.injected import Injected
from petiole.methods.base import Method, Plan
from petiole.methods.blocks import select
from petiole.methods.recipe import AS_MANY_STEPS, INSIDE_BLOCKS
from petiole.methods.registry import MethodEntry, family

if TYPE_CHECKING:
    from peft import PeftConfig

_PROMPTS = "it prompts a language model, and this is a vision tower (use vpt-shallow or vpt-deep)"
REFUSED = {
    "adalora": "its ranks are reallocated by a training loop of its own (use peft:lora)",
    "adaption_prompt": _PROMPTS,
    "cartridge": _PROMPTS,
    "cpt": _PROMPTS,
    "lily": "its router averages over the batch, so a prediction depends on the images beside it",
    "multitask_prompt_tuning": _PROMPTS,
    "p_tuning": _PROMPTS,
    "prefix_tuning": _PROMPTS,
    "prompt_tuning": _PROMPTS,
    "osf": "it replaces every frozen weight by its singular vectors, so it is no small adapter",
    "poly": "every forward pass needs task ids",
    "shadow": "it runs a second language model beside the first",
    "trainable_tokens": "it trains rows of a token table, and images have none",
    "xlora": "it mixes LoRA adapters that exist already",
}
"""Types that cannot adapt an image encoder, and why."""


@dataclass(frozen=True)
class Peft(Method):
    """A method of peft. Its configuration's own fields are fields here too, under peft's names.

    Attributes:
        targets: roles within a block whose linear layers are adapted, comma separated.
        blocks: all | every:k | first:k | last:k | 0,3,7.
        target_modules: modules by name instead, as peft takes them.
    """

    kind: ClassVar[str]
    lr_grid: ClassVar[tuple[float, ...]] = (3e-4, 1e-3, 3e-3)

    targets: str = "attn.q,attn.k,attn.v"
    blocks: str = "all"
    target_modules: Any = None

    def plan(self, backbone: Backbone, classes: int) -> Plan:
        import peft

        config = self.config(backbone)
        try:
            injected = Injected(backbone.module, lambda twin: peft.get_peft_model(twin, config))
        except ConfigError as error:
            raise ConfigError(f"peft:{self.kind} on {backbone.name}: {error}") from error
        except (ValueError, TypeError, KeyError, AttributeError, RuntimeError) as error:
            # What peft raises on a setting that does not fit, or on weights that are not there.
            meta = " (it reads the weights, so it cannot be counted without them)"
            why = f"{error}{meta if backbone.is_meta else ''}"
            raise ConfigError(f"peft:{self.kind} on {backbone.name}: {why}") from error
        head = LinearHead(backbone.width, classes)
        return Plan(head=head, reads=(backbone.vector,), injected=injected, identity=None)

    def config(self, backbone: Backbone) -> PeftConfig:
        """The configuration for this backbone, with targets by module name.

        Raises:
            ConfigError: a role that is no linear layer, or what peft says of a value.
        """
        own = {f.name: f.metadata["peft"] for f in fields(self) if "peft" in f.metadata}
        values = {name: (getattr(self, name), usual) for name, usual in own.items()}
        given = {name: _parsed(now) for name, (now, usual) in values.items() if now != usual}
        modules = _parsed(self.target_modules)
        given["target_modules"] = modules if modules is not None else self._targets(backbone)
        try:
            return _config_class(self.kind)(**given)
        except (ValueError, TypeError) as error:
            raise ConfigError(f"Bad settings for peft:{self.kind}: {error}") from error

    def _targets(self, backbone: Backbone) -> list[str]:
        chosen = select(self.blocks, backbone)
        modules = dict(backbone.module.named_modules())
        if self.kind == "ln_tuning":
            inside = {f"block.{i}.in" for i in chosen}
            norms = (path for path, m in modules.items() if isinstance(m, nn.LayerNorm))
            return [path for path in norms if backbone.role_of(f"{path}.") in inside]
        paths = {id(module): path for path, module in modules.items()}
        roles = [
            f"block.{i}.{target.strip()}" for i in chosen for target in self.targets.split(",")
        ]
        return list(dict.fromkeys(paths[id(backbone.site(role).module)] for role in roles))


@family("peft", "any method of the library peft that fits a vision tower, e.g. peft:loha")
def entry(kind: str) -> MethodEntry:
    """The method ``peft:<kind>``.

    Raises:
        ConfigError: peft has no such type, or it cannot adapt an image encoder.
    """
    if kind in REFUSED:
        raise ConfigError(f"peft:{kind} cannot adapt an image encoder: {REFUSED[kind]}.")
    config = _config_class(kind)
    own = [(f.name, Any, _own_field(f)) for f in fields(config) if f.name not in _internal()]
    cls = make_dataclass(f"Peft_{kind}", own, bases=(Peft,), frozen=True, kw_only=True)
    cls.kind = kind  # type: ignore[attr-defined]
    # peft states no default for it: scale the outputs of all targets, the inputs of none.
    own_preset: dict[str, Any] = {"feedforward_modules": []} if kind == "ia3" else {}
    about = f"{config.__name__} of the library peft"
    return MethodEntry(cls, INSIDE_BLOCKS | own_preset, about, AS_MANY_STEPS)


def _config_class(kind: str) -> type[PeftConfig]:
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING as configs

    known = {key.value.lower(): config for key, config in configs.items()}
    if kind not in known:
        raise unknown("peft type", kind, known)
    found: type[PeftConfig] = known[kind]
    return found


def _internal() -> set[str]:
    from peft import PeftConfig

    return {f.name for f in fields(PeftConfig)} | {"target_modules", "runtime_config"}


def _own_field(original: Field[Any]) -> Any:
    """A field of peft's as one of ours; a default that is no plain value becomes ``None``."""
    default = original.default_factory() if callable(original.default_factory) else original.default
    plain = default if _is_plain(default) else None
    return field(default_factory=lambda: plain, metadata={"peft": plain})


def _is_plain(value: Any) -> bool:
    try:
        json.dumps(value)
    except TypeError:
        return False
    return True


def _parsed(value: Any) -> Any:
    """What a text of the command line means: JSON where it is JSON, else itself."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value.lower() if value in ("True", "False") else value)
    except json.JSONDecodeError:
        return None if value == "None" else value
