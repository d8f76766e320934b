"""Whatever opens or parses a file stands inside a boundary, which makes any exception an error of ours.

A parser of another library raises what it likes. So calls of parsers are found in the source, and each lies in ``with
boundary(...)`` (``readable`` of the published data sets is one) or a ``try`` that catches ``Exception``, or stands in `ELSEWHERE` with the reason why not.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import petiole

SOURCE = Path(petiole.__file__).parent
PARSERS = {
    *("json.load", "json.loads", "tomllib.load", "tomllib.loads", "csv.reader", "csv.DictReader"),
    *("safe_open", "load_file", "read_tensors", "read_sealed", "torch.load", "torch.jit.load"),
    *("h5py.File", "np.load", "loadmat", "pq.read_table", "pq.ParquetFile", "parquet.ParquetFile", "Image.open"),
    *("zipfile.ZipFile", "ZipFile", "pickle.load", "ET.parse", "yaml.safe_load"),
}  # fmt: skip
READS = {"read_text", "read_bytes", "readlines", "from_pretrained"}

OWN = "a file of the package"
MADE = "a file or text that was made there"
CALLER = "every caller stands in a boundary"
ELSEWHERE = {
    "collective.py:said_by_all": "what the processes of one run say to each other",
    "backbones/vision/trace.py:table": OWN,
    "backbones/vision/transformers_models.py:model": "it reads no file: the tensors are given",
    "data/readers/webdataset.py:_label": CALLER,
    "serving/channel.py:receive": "a message of the server's own other process",
    "serving/exports.py:place_of": "it reads bytes for their digest, and parses nothing",
    "serving/pages.py:page_router": OWN,
    "serving/process.py:WorkerProcess.memory": "a file of the kernel",
    "serving/teach/process.py:_handlers.adapter": MADE,
    "tasks/classification/export/hf.py:HuggingFace.open": MADE,
    "tasks/classification/export/safetensors_merged.py:SafetensorsMerged.open": MADE,
    "backbones/at_hand.py:_recommended": OWN,
    "backbones/hub.py:load": OWN,
    "claims/__init__.py:_read": f"{OWN}; one of somebody else's is read in _own's boundary",
    "device.py:narrow_unit": "a file of the kernel",
    "data/corruptions.py:_jpeg_compression": MADE,
    "data/image.py:_open": "decode's boundary",
    "data/image.py:read_bytes": "it tells the operating system's errors apart, and parses nothing",
    "engine/feature_store.py:load_shard": CALLER,
    "engine/memory.py:_resident_peak": "a file of the kernel",
    "engine/run_lock.py:_differences": MADE,
    "files.py:_order_metadata": MADE,
    "files.py:read_lines": f"it reads bytes; {CALLER}",
    "files.py:read_sealed": f"it reads bytes; {CALLER}",
    "files.py:unpacked": CALLER,
    "methods/peft/library.py:_parsed": "a word of the command line",
    "methods/prompt_learning/templates.py:_read": OWN,
    "registry.py:_files": OWN,
    "report/page.py:render": OWN,
    "stores/pointer.py:image_bytes": "it reads bytes for their digest, and parses nothing",
    "stores/pointer.py:pointer_at": "it reads bytes, and unsealed parses them",
    "stores/publish.py:_finish": MADE,
    "stores/publish.py:_is_finished": "a text that is compared with another",
    "stores/publish.py:_seal": "a text that is no sealed object has no seal",
    "stores/publish.py:begin": "a text that is compared with another",
    "testing/dual_encoder.py:folder": MADE,
    "testing/image_methods.py:counts_as_the_ledger_says": MADE,
    "testing/image_methods.py:survives_saving": MADE,
}


def called(node: ast.Call) -> str:
    """The name of what is called, as it is written; of a method of `READS` on anything, its own name."""
    if isinstance(node.func, ast.Attribute) and node.func.attr in READS:
        return node.func.attr
    return ast.unparse(node.func)


def parses(node: ast.Call) -> bool:
    ours = isinstance(node.func, ast.Name)  # petiole.data.image.read_bytes raises errors of ours
    return called(node) in (PARSERS if ours else PARSERS | READS)


def guards(node: ast.AST) -> bool:
    if isinstance(node, ast.With):
        return any(
            ast.unparse(item.context_expr).startswith(("boundary(", "readable("))
            for item in node.items
        )
    return isinstance(node, ast.Try) and any(
        handler.type is None or ast.unparse(handler.type) == "Exception"
        for handler in node.handlers
    )


def unguarded(tree: ast.AST, place: str, safe: bool = False) -> Iterator[tuple[str, str]]:
    """(function, call) of each parser outside of a boundary."""
    for node in ast.iter_child_nodes(tree):
        inner, inside = place, safe or guards(tree)
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            inner, inside = f"{place}.{node.name}".strip("."), False
        if isinstance(node, ast.Call) and parses(node) and not inside:
            yield place, called(node)
        yield from unguarded(node, inner, inside)


def found() -> dict[str, list[str]]:
    places: dict[str, list[str]] = {}
    for file in sorted(SOURCE.rglob("*.py")):
        for place, call in unguarded(ast.parse(file.read_text("utf-8")), ""):
            name = f"{file.relative_to(SOURCE).as_posix()}:{place}"
            places.setdefault(name, []).append(call)
    return places


def test_every_parser_stands_in_a_boundary() -> None:
    places = found()
    assert len(places) > 10, "nothing is found any more"
    assert {name: calls for name, calls in places.items() if name not in ELSEWHERE} == {}
    assert ELSEWHERE.keys() <= places.keys(), "these are guarded now, or gone"
