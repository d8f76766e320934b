"""``examples/browser`` in Chromium: the files of export and of ``OnnxPool`` give there what they give here."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import petiole
from builders.browser import NEEDED, browser  # noqa: F401 - a fixture
from petiole.testing import backbones
from petiole.testing.random_weights import seeded, shaken

HOME = Path(__file__).parents[2] / "examples" / "browser"
pytestmark = [
    NEEDED,
    pytest.mark.skipif(
        not (HOME / "node_modules").is_dir(), reason="needs npm install in examples/browser"
    ),
]
pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """The example beside what the test writes, over the loopback."""
    for file in HOME.iterdir():
        (tmp_path / file.name).symlink_to(file)

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=tmp_path)) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def run(driver: Any, code: str, *values: object) -> Any:
    """What a piece of JavaScript returns, in which the example's exports are known."""
    given = json.dumps(values)
    done = driver.execute_async_script(
        "const done = arguments[0];"
        f"(async () => {{ const m = await import('./petiole.js'); const given = {given}; {code} }})()"
        ".then(done, (error) => done({error: `${error}`}));"
    )
    assert "error" not in done, done
    return done


def test_the_files_give_in_chromium_what_they_give_here(
    tmp_path: Path,
    address: str,
    browser: Any,  # noqa: F811
) -> None:
    with seeded():
        vit = backbones.plain()
        model = petiole.adapt(vit, "lora-qkv", classes=("ash", "birch", "cedar"), rank=2)
        shaken(model)
    model.eval().export(tmp_path / "model", "onnx", preprocess=True)
    pool = petiole.OnnxPool.create(vit, tmp_path / "pool", threads=1)
    pool.add("trees", model._adapter())
    rng = np.random.default_rng(0)
    shown = rng.integers(0, 256, (30, 44, 3), dtype=np.uint8)
    Image.fromarray(shown).save(tmp_path / "image.png")
    pixels = torch.randn(2, 3, *vit.preprocessing.size)
    browser.get(address)
    browser.set_script_timeout(60)

    rgba = np.dstack([shown, np.full(shown.shape[:2], 255, np.uint8)])
    code = """const [data, height, width] = given;
        return (await m.Classifier.open("model")).predict({data: Uint8ClampedArray.from(data), height, width});"""
    said = run(browser, code, rgba.ravel().tolist(), *shown.shape[:2])
    want = model.predict(tmp_path / "image.png")[0]
    assert said["label"] == want.label
    assert said["probabilities"] == pytest.approx(want.probabilities, abs=0.01)  # its resize rounds
    assert said["outside"] is None

    code = """const [values, dims] = given; const pool = await m.Pool.open("pool"); await pool.add("trees");
        const {logits, vector} = await pool.run(Float32Array.from(values), dims, "trees");
        return {logits: Array.from(logits.data), width: vector.dims[1]};"""
    found = run(browser, code, pixels.flatten().tolist(), list(pixels.shape))
    np.testing.assert_allclose(
        np.reshape(found["logits"], (2, 3)), pool(pixels, "trees").logits, atol=1e-4
    )
    assert found["width"] == vit.width
    problems = [line for line in browser.get_log("browser") if line["level"] == "SEVERE"]
    assert not problems
