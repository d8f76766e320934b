"""Which models load: every architecture of timm and every image model of transformers, as shapes without weights.

python benchmarks/families.py --out families.jsonl      one line a name, as found; some 15 minutes on one core
python benchmarks/families.py --table families.jsonl    the table of docs/backbones.md
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import timm

from petiole.backbones.base import Backbone
from petiole.backbones.frozen_network import BLOCK_ROLES
from petiole.backbones.registry import load_backbone
from petiole.errors import PetioleError

BESIDE = ("dinov3_vit", "dinov3_convnext")
"""Image models of transformers that its list of classifiers lacks."""
OTHERS = ("clip", "siglip", "siglip2", "timm_wrapper")
"""Types that are loaded with a tokenizer, or as one of timm's names."""
PROCESSORS = {
    "dinov2_with_registers": "BitImageProcessor",
    "dinov3_convnext": "DINOv3ViTImageProcessor",
}
"""Of types to which the library assigns none; as their published folders state."""


def timm_names() -> Iterator[tuple[str, str]]:
    """Name, and what to load."""
    for name in timm.list_models():
        yield f"timm/{name}", f"timm/{name}"


def transformers_types(home: Path) -> Iterator[tuple[str, str]]:
    """Model type, and a folder with its default configuration and its processor."""
    import transformers
    from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES as CLASSIFIERS,
    )

    for kind in sorted({*CLASSIFIERS, *BESIDE} - {*OTHERS}):
        folder = home / kind
        folder.mkdir()
        try:
            config = transformers.AutoConfig.for_model(kind)
            processor = PROCESSORS.get(kind) or IMAGE_PROCESSOR_MAPPING_NAMES[kind]["torchvision"]
            config.save_pretrained(folder)
            getattr(transformers, processor)().save_pretrained(folder)
        except Exception:  # the library itself has no default of this type
            (folder / "config.json").write_text(json.dumps({"model_type": kind}))
        yield f"hf:{kind}", str(folder)


def found(name: str, source: str) -> dict[str, Any]:
    """What loading a shape tells."""
    try:
        backbone = load_backbone(source, device="meta")
    except PetioleError as error:
        return {"name": name, "refused": str(error).replace(source, name)}
    except Exception as error:  # what must not happen
        return {"name": name, "crash": f"{type(error).__name__}: {error}"}
    return {"name": name, "class": type(backbone.module).__name__, **_roles(backbone)}


def _roles(backbone: Backbone) -> dict[str, Any]:
    roles = {role.split(".", 2)[2] for role in backbone.sites if role.startswith("block.")}
    missing = [role for role in BLOCK_ROLES if role not in roles]
    return {"blocks": backbone.depth, "cuts": len(backbone.cuts), "missing": missing}


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: one row a class of modules."""
    groups: dict[tuple[str, str], list[str]] = defaultdict(list)
    for row in rows:
        if "crash" in row:
            said = f"**crash**: {row['crash']}"
        elif "refused" in row:
            said = "refused: " + _reason(row["refused"])
        elif not row["blocks"]:
            said = "final features; no roles inside"
        else:
            said = "all roles" if not row["missing"] else f"no {', '.join(row['missing'])}"
        groups[row.get("class", ""), said].append(row["name"])
    counts = [sum(key in row for row in rows) for key in ("class", "refused", "crash")]
    lines = ["{} names load, {} are refused with a reason, {} crash.".format(*counts), ""]
    lines += ["| class | names | first of them | inside |", "|---|---:|---|---|"]
    for (cls, said), names in sorted(groups.items(), key=lambda item: (item[0][1], item[0][0])):
        lines.append(f"| {cls or '—'} | {len(names)} | `{names[0]}` | {said} |")
    return "\n".join(lines)


def _reason(message: str) -> str:
    if ", which petiole does not know. It knows" in message:
        return "not a type that petiole reads"
    inner = message.partition("and a vector (")[2].partition("). Leave")[0]
    return inner or message.partition(". ")[0].partition(": ")[2] or message.partition(". ")[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--table", type=Path)
    parser.add_argument("--only", default="", help="names that contain this")
    options = parser.parse_args()
    if options.table:
        rows = [json.loads(line) for line in options.table.read_text().splitlines()]
        print(table(rows))
        return
    with tempfile.TemporaryDirectory() as home, options.out.open("w") as out:
        for name, source in (*timm_names(), *transformers_types(Path(home))):
            if options.only in name:
                out.write(json.dumps(found(name, source)) + "\n")
                out.flush()


if __name__ == "__main__":
    main()
