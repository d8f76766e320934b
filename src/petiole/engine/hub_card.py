"""The README of an adapter on the hub, from its manifest and its record."""

from __future__ import annotations

from pathlib import Path

from petiole.backbones.at_hand import licence_of
from petiole.engine.adapter import Manifest, read_manifest
from petiole.engine.record import RECORD, Record, read_record

CARD = """---
{head}
---

# {title}

{what} for [petiole](https://pypi.org/project/petiole/): {values:,} numbers on the frozen backbone `{backbone}`, whose weights are
not part of it.

```python
import petiole

model = petiole.{opener}("hf:{repo}")
```
{use}
## What it is

| | |
|---|---|
| method | `{method}` |
| settings | {settings} |
| backbone | `{backbone}`, SHA-256 of the weights `{fingerprint}` |
| licence of the backbone | {licence} |
| classes or tasks | {names} |
| petiole | {version} |

{record}
Opening it compares the backbone with that digest and replays a stored input: on other weights it is refused, not used.
"""

LABELS = """
```bash
petiole predict hf:{repo} IMAGE...
```
"""

RECORDED = """## How it was trained and scored

| | |
|---|---|
| samples | {samples} |
| shots a class | {shots} |
| seed, split seed | {seed}, {split_seed} |
| kept | {selection} |
| scored on | {scored}, evaluated {evaluations} in that folder |
| data, SHA-256 | {digests} |
| training | {seconds:.0f} s, {created} |

| set | score | value | 95 % interval |
|---|---|---:|---:|
{scores}

Intervals are Wilson's over the scored samples of this one run; they say nothing of other draws of training images.
"""

SHARES = ("accuracy",)
"""Scores that are shares of samples, so that they have such an interval."""


def card(folder: Path, run: Path | None, repo: str) -> str:
    """The text, with the metadata that the hub reads at its head.

    Args:
        folder: of the adapter.
        run: the run's folder, if it is known.
        repo: OWNER/NAME.
    """
    from huggingface_hub import ModelCardData

    manifest = read_manifest(folder)
    record = read_record(run) if run and (run / RECORD).is_file() else None
    labels = manifest.kind == "classification"
    licence, names = licence_of(manifest.backbone.name), _names(manifest)
    data = ModelCardData(
        library_name="petiole",
        tags=["petiole", manifest.method, manifest.kind],
        pipeline_tag="image-classification" if labels else None,
        license=licence.lower() if licence == "Apache-2.0" else None,
    )
    return CARD.format(
        head=data.to_yaml(),
        title=repo.partition("/")[2],
        what=f"An adapter of the kind {manifest.kind}",
        values=manifest.ledger.inference + manifest.ledger.fixed,
        opener="load_adapter" if labels else "Adapter.load",
        repo=repo,
        use=LABELS.format(repo=repo) if labels else "",
        backbone=manifest.backbone.name,
        method=manifest.method,
        settings=", ".join(
            f"{k}={_plain(v)}" for k, v in manifest.settings.items() if k != "recipe"
        )
        or "defaults",
        fingerprint=manifest.backbone.fingerprint,
        licence=licence or "not known here; ask the backbone's own card",
        names=names,
        version=manifest.petiole,
        record=_recorded(record) if record else "It came without the record of its training.\n",
    )


def _recorded(record: Record) -> str:
    data = record.request.data
    scores = [
        f"| {table} | {name} | {value:.4f} | {_interval(record, name, value)} |"
        for table, values in record.scores.items()
        for name, value in values.items()
    ]
    return RECORDED.format(
        samples=", ".join(f"{name} {count:,}" for name, count in data.samples.items()),
        shots="all" if data.shots is None else data.shots,
        seed=record.request.seed,
        split_seed=data.split_seed,
        selection=record.selection,
        scored=data.scored,
        evaluations="once" if record.test_evaluations == 1 else f"{record.test_evaluations} times",
        digests=", ".join(f"{name} `{digest[:16]}`" for name, digest in data.digests.items()),
        seconds=record.costs.train_seconds,
        created=record.created,
        scores="\n".join(scores),
    )


def _interval(record: Record, name: str, value: float) -> str:
    """Wilson's; empty for what is no share, or of an unknown number of samples."""
    from scipy.stats import binomtest

    count = record.request.data.samples.get(record.request.data.scored, 0)
    if name not in SHARES or not count:
        return ""
    low, high = binomtest(round(value * count), count).proportion_ci(method="wilson")
    return f"[{low:.4f}, {high:.4f}]"


def _names(manifest: Manifest) -> str:
    names = manifest.classes or [task.name for task in manifest.tasks]
    more = f", and {len(names) - 50:,} more" if len(names) > 50 else ""
    return ", ".join(_plain(name) for name in names[:50]) + more


def _plain(value: object) -> str:
    """A value within a cell of a table, on one line."""
    return str(value).replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")
