"""What verbs share: the result face, ``--set``, and groups of options.

``None`` means that an option was not given, so that one which a task has no use for can be helps from a default.
"""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from cyclopts import Parameter
from pydantic import BaseModel, ConfigDict
from rich.console import RenderableType
from rich.text import Text

from petiole.cache_folder import default_cache as default_cache
from petiole.device import Precision
from petiole.device import device as device
from petiole.errors import ConfigError
from petiole.ranges import PositiveFraction, ProperFraction, Seed

if TYPE_CHECKING:
    from petiole.engine.task import Task
    from petiole.layers.token_pruning import Pruning
    from petiole.tasks.classification.workspace import Classification

    Settings = Mapping[str, Any] | Sequence[str] | None
    Data = Any
else:
    Settings = Annotated[
        list[str] | None,
        Parameter(
            name="--set",
            negative=(),
            consume_multiple=True,
            help="key=value of the method or recipe; several, or repeated.",
        ),
    ]
    Data = Annotated[list[str], Parameter(negative=(), consume_multiple=True)]


C = TypeVar("C", bound=type)
AUTO = "auto"
"""Of a method or backbone: let left-out target images choose."""


def group(title: str) -> Callable[[C], C]:
    """Class decorator: fields are options under a title of the help, which says of each what the docstring says."""

    def add(cls: C) -> C:
        listed = inspect.cleandoc(cls.__doc__ or "").partition("Attributes:\n")[2]
        helps = {
            name: " ".join(text.split())
            for name, text in re.findall(r"^    (\w+): ((?:.+\n?)(?:      +.+\n?)*)", listed, re.M)
        }
        for name, hint in list(cls.__annotations__.items()):
            cls.__annotations__[name] = f"Annotated[{hint}, Parameter(help={helps[name]!r})]"
        return Parameter(name="*", group=title)(cls)

    return add


class CommandResult(BaseModel):
    """What a verb returns: fields for programs, ``text`` for people, HTML for notebooks."""

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)

    def text(self) -> RenderableType:
        """What the command prints."""
        raise NotImplementedError

    def __rich__(self) -> RenderableType:
        return self.text()

    def _repr_html_(self) -> str:
        """The same for a notebook."""
        from rich.console import Console

        with open(os.devnull, "w", encoding="utf-8") as nowhere:
            # Within Jupyter it would also show itself.
            console = Console(record=True, width=110, file=nowhere, force_jupyter=False)
            console.print(self.text())
        return console.export_html(inline_styles=True, code_format="<pre>{code}</pre>")


@group("Model")
@dataclass(frozen=True)
class ModelOptions:
    """Which model runs, where and how.

    Attributes:
        backbone: petiole/tiny-vit, petiole/efficientnet-lite0, timm/MODEL, hf/OWNER/MODEL, or a model folder; by
            default a packaged one that the method fits. A+B puts the image vectors of two side by side, for heads on
            them. For petiole fit also several, or auto: the best on left-out target images.
        weights: local safetensors file for the named architecture.
        image_size: pixels, where the model accepts other sizes than its own.
        quantize: store the frozen linear layers in fewer bits: int8 (torchao, any device), or on CUDA bnb-int8 or bnb-nf4
            (bitsandbytes).
        device: auto (CUDA where there is one), cpu, cuda, ...
        precision: fp32; or bf16, which computes in mixed precision, faster where the processor has it; or fp16, the same with a
            scaled loss, for GPUs without bf16 (T4, V100).
        grad_checkpointing: less memory for time: recompute activations in the backward pass.
        compile: train through torch.compile: slow to start, faster afterwards.
        dtype: in which cached features are stored; by default float32.
        cache_dir: folder of the feature cache.
        no_cache: recompute the frozen half in every epoch.
        skip_bad: leave unreadable images out, and count them.
        quiet: no progress bars.
    """

    backbone: Annotated[list[str] | str | None, Parameter(negative=(), consume_multiple=True)] = (
        None
    )
    weights: Path | None = None
    image_size: int | None = None
    quantize: Literal["int8", "bnb-int8", "bnb-nf4"] | None = None
    device: str = "auto"
    precision: Precision = "fp32"
    grad_checkpointing: bool = False
    compile: bool = False
    dtype: Literal["float32", "float16", "bfloat16"] | None = None
    cache_dir: Path | None = None
    no_cache: bool = False
    skip_bad: bool = False
    quiet: bool = False

    @property
    def backbones(self) -> tuple[str, ...]:
        """Those that were named."""
        given = self.backbone or ()
        return (given,) if isinstance(given, str) else tuple(given)

    @property
    def one_backbone(self) -> str | None:
        """The one that was named.

        Raises:
            ConfigError: several, or ``auto``, where one is taken.
        """
        if len(self.backbones) > 1 or AUTO in self.backbones:
            raise ConfigError(
                f"One backbone is taken here, not {' '.join(self.backbones)}. petiole fit chooses among several; petiole "
                "backbones ranks them."
            )
        return self.backbones[0] if self.backbones else None

    @property
    def cache(self) -> Path | None:
        """Folder of the feature cache."""
        if self.no_cache:
            return None
        return Path(self.cache_dir) if self.cache_dir else default_cache()

    def classification(
        self,
        images: Any,
        source: Any = None,
        test: Any = None,
        test_fraction: float | None = None,
        *,
        methods: Sequence[str] = (),
    ) -> Classification:
        """Put images on this model."""
        from petiole.tasks.classification.workspace import Classification

        return Classification(
            images=images_of(images),
            source=images_of(source, "source"),
            test=images_of(test),
            test_fraction=0.5 if test_fraction is None else test_fraction,
            **self.image_terms(methods),
        )

    def image_terms(self, methods: Sequence[str]) -> dict[str, Any]:
        """What a task on images takes of the model; without a name, a packaged one that takes these methods."""
        from petiole.commands.defaults import backbone_for

        return {
            "backbone": self.one_backbone or backbone_for(methods),
            "weights": Path(self.weights) if self.weights else None,
            "image_size": self.image_size,
            "quantize": self.quantize,
            "device": device(self.device),
            "precision": self.precision,
            "checkpointing": self.grad_checkpointing,
            "compiled": self.compile,
            "dtype": self.dtype or "float32",
            "cache": self.cache,
            "skip_bad": self.skip_bad,
            "quiet": self.quiet,
        }


@group("Labelled images")
@dataclass(frozen=True)
class ImageOptions:
    """Which labelled images are learned from and scored.

    Attributes:
        task: classification (one class an image), multilabel (any number of labels), regression (a number) or segmentation (a mask); by default
            what the columns of the table say: label, labels or value.
        source: labelled images of the source domain: synthetic, old, drawn, ...
        test: held-back target images; otherwise a part of DATA is held back.
        test_fraction: share of each class that is held back then; by default 0.5.
        shots: target images drawn from each class for training, by default 10; where there are no classes, in all, and by
            default all.
        all_images: train on all of them instead.
        split_seed: seed of the draw.
    """

    task: Literal["classification", "multilabel", "regression", "segmentation"] | None = None
    source: Path | None = None
    test: Path | None = None
    test_fraction: ProperFraction | None = None
    shots: int | None = None
    all_images: bool = False
    split_seed: Seed | None = None


@group("Texts about images")
@dataclass(frozen=True)
class TextTaskOptions:
    """How an encoder-decoder sees, learns and is scored.

    Attributes:
        vision_backbone: image backbone that makes the features; by default the model's own.
        features: stored features instead: VL-Adapter's datasets/ folder with .h5, .npz or .parquet files.
        visual_tokens: visual features an image, after pooling; by default 36.
        visual: key=value of the V->L block: boxes, mask_padding, norms.
        mode: one task a batch in proportion to their sizes, balanced, or all tasks mixed in every batch.
        fraction: share of every task's training samples.
        no_prefixes: put no hard prompt before texts.
        validation_part: score val and leave the test part closed.
    """

    vision_backbone: str | None = None
    features: Path | None = None
    visual_tokens: int | None = None
    visual: Annotated[
        list[str] | dict[str, Any] | None, Parameter(negative=(), consume_multiple=True)
    ] = None
    mode: Literal["proportional", "balanced", "mixed"] | None = None
    fraction: PositiveFraction | None = None
    no_prefixes: bool = False
    validation_part: bool = False


@group("Questions over a codebook")
@dataclass(frozen=True)
class CodebookTaskOptions:
    """Which language models read the codes, and how.

    Attributes:
        language_models: further language models over the codebook, which are scored with the encoder.
        general: questions of no domain, whose images remember=1 keeps at their codes.
        keep: share of image tokens that the language model reads; by default 1, all.
        prune: which are kept: full, rarity+residual, rarity, random or uniform.
        positions: kept tokens keep their places, or close up (compact).
        fsdp: spread the language models over the processes that torchrun started (FSDP2), where one of them cannot hold
            it; for methods that leave the language model as it is.
    """

    language_models: Annotated[
        Sequence[str], Parameter(name="--language-model", negative=(), consume_multiple=True)
    ] = ()
    general: Path | None = None
    keep: PositiveFraction | None = None
    prune: Literal["full", "rarity+residual", "rarity", "random", "uniform"] | None = None
    positions: Literal["keep", "compact"] | None = None
    fsdp: bool = False


@group("Questions over a codebook")
@dataclass(frozen=True)
class InferenceOptions:
    """How questions are put to a model over a codebook.

    Attributes:
        language_models: language models to put a tuned encoder before; by default that of its training.
        keep: share of image tokens that the language model reads; by default 1, all.
        prune: which are kept: full, rarity+residual, rarity, random or uniform.
        positions: kept tokens keep their places, or close up (compact).
        route: send images that do not look like the domain through the original encoder.
    """

    language_models: Annotated[
        Sequence[str], Parameter(name="--language-model", negative=(), consume_multiple=True)
    ] = ()
    keep: PositiveFraction | None = None
    prune: Literal["full", "rarity+residual", "rarity", "random", "uniform"] | None = None
    positions: Literal["keep", "compact"] | None = None
    route: bool = False

    def pruning(self) -> Pruning | None:
        """Of image tokens, if any go."""
        return pruning(self.keep, self.prune, self.positions)


def name_of(data: Any) -> str:
    """What folders that data was learned from are called: file names; ``data`` for images without a path."""
    sets = data if isinstance(data, list | tuple) else [data]
    if not all(isinstance(one, str | Path) for one in sets):
        return "data"
    return "-".join(Path(str(one).rpartition("=")[2]).stem for one in sets[:3])


def default_folder(data: Any, what: str, task: Task[Any]) -> Path:
    """``runs/photos-compare-1f0c9ab2``: the name of the data, what is done, and the begin of the data's digest.

    So a folder of the same name elsewhere, or one that changed, has runs of its own.
    """
    return Path("runs") / "-".join(filter(None, (name_of(data), what, task.data_digest()[:8])))


def unwrapped(data: Any) -> Any:
    """A list of one path is that path: a file, a folder or a table."""
    alone = isinstance(data, list | tuple) and len(data) == 1 and isinstance(data[0], str | Path)
    return data[0] if alone else data


def images_of(data: Any, domain: Literal["source", "target"] = "target") -> Any:
    """A path as it is; images in any other form as a data set."""
    from petiole.data.inputs import as_dataset

    data = unwrapped(data)
    if data is None or isinstance(data, str | Path):
        return Path(data) if data else None
    return as_dataset(data, domain=domain)


def pruning(keep: float | None, mode: Any, positions: Any) -> Pruning | None:
    """What three options say about image tokens; ``None`` where all stay.

    Raises:
        ConfigError: a way of pruning where nothing is pruned.
    """
    from petiole.layers.token_pruning import Pruning

    if keep is None or keep == 1:
        if mode or positions:
            raise ConfigError(
                "--prune and --positions say how tokens go; say how many stay: --keep 0.8."
            )
        return None
    return Pruning(keep=keep, mode=mode or "full", positions=positions or "keep")


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
