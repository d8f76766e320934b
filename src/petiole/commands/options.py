"""What verbs share: the result face, ``--set``, and the options that make a bench."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter
from pydantic import BaseModel, ConfigDict
from rich.console import RenderableType
from rich.text import Text

from petiole.errors import ConfigError

if TYPE_CHECKING:
    from petiole.tasks.classification.workspace import Classification

    Settings = Mapping[str, Any] | Sequence[str] | None
else:
    Settings = Annotated[
        list[str] | None,
        Parameter(name="--set", negative=(), help="key=value of the method or recipe; repeatable."),
    ]


class CommandResult(BaseModel):
    """What a verb returns: fields for programs, ``text`` for people."""

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)

    def text(self) -> RenderableType:
        """What the command prints."""
        raise NotImplementedError

    def __rich__(self) -> RenderableType:
        return self.text()


@Parameter(name="*")
@dataclass(frozen=True)
class ModelOptions:
    """Where and how a backbone runs.

    Attributes:
        backbone: petiole/tiny-vit, petiole/efficientnet-lite0, timm/MODEL, or a model folder.
        weights: local safetensors file for the named architecture.
        image_size: pixels, where the model accepts other sizes than its own.
        device: cpu, cuda, ...
        precision: bf16 computes in mixed precision: faster where the processor has it.
        grad_checkpointing: less memory for time: recompute activations in the backward pass.
        compile: train through torch.compile: slow to start, faster afterwards.
        dtype: in which cached features are stored.
        cache_dir: folder of the feature cache.
        no_cache: recompute the frozen half in every epoch.
        skip_bad: leave unreadable images out, and count them.
        quiet: no progress bars.
    """

    backbone: str = "petiole/efficientnet-lite0"
    weights: Path | None = None
    image_size: int | None = None
    device: str = "cpu"
    precision: Literal["fp32", "bf16"] = "fp32"
    grad_checkpointing: bool = False
    compile: bool = False
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    cache_dir: Path | None = None
    no_cache: bool = False
    skip_bad: bool = False
    quiet: bool = False

    def bench(
        self, images: Path, source: Path | None, test: Path | None, test_fraction: float
    ) -> Classification:
        """Put images on this machine."""
        from petiole.tasks.classification.workspace import Classification

        cache = Path(self.cache_dir) if self.cache_dir else default_cache()
        return Classification(
            backbone=self.backbone,
            images=Path(images),
            source=Path(source) if source else None,
            test=Path(test) if test else None,
            test_fraction=test_fraction,
            weights=Path(self.weights) if self.weights else None,
            image_size=self.image_size,
            device=self.device,
            precision=self.precision,
            checkpointing=self.grad_checkpointing,
            compiled=self.compile,
            dtype=self.dtype,
            cache=None if self.no_cache else cache,
            skip_bad=self.skip_bad,
            quiet=self.quiet,
        )


def default_cache() -> Path:
    """``$PETIOLE_CACHE``, else ``petiole`` in the user's cache folder."""
    if chosen := os.environ.get("PETIOLE_CACHE"):
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "petiole"


def pairs(settings: Settings) -> dict[str, Any]:
    """Turn ``["rank=16", "host_settings.width=768", ...]`` or a mapping into a dict; a dot leads into a setting.

    Raises:
        ConfigError: an item without ``=``.
    """
    if settings is None:
        return {}
    if isinstance(settings, Mapping):
        return dict(settings)
    found: dict[str, Any] = {}
    for item in settings:
        key, sign, value = item.partition("=")
        if not sign or not key:
            raise ConfigError(f"--set takes key=value, not {item!r}. For example: --set rank=16")
        name, dot, inner = key.strip().replace("-", "_").partition(".")
        if not dot:
            found[name] = _literal(value.strip())
        elif isinstance(within := found.setdefault(name, {}), dict):
            within[inner] = _literal(value.strip())
        else:
            raise ConfigError(f"--set gives {name} a value and {item!r} a part. Leave one out.")
    return found


def _literal(value: str) -> Any:
    """``(1,2)`` is a list; everything else is converted by the method's own types."""
    if value.startswith("(") and value.endswith(")"):
        return [part for part in value[1:-1].split(",") if part]
    return value


def fact(name: str, value: object) -> Text:
    """``name     value`` on one line, never broken, so that a path can be copied."""
    return Text(f"{name:<9}{value}", no_wrap=True, overflow="ignore")


def plural(n: int, what: str) -> str:
    """``1 image``, ``2 images``."""
    return f"{n:,} {what}" + ("" if n == 1 else "s")
