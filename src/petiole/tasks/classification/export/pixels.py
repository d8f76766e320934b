"""The evaluation transform as nodes of an ONNX graph: raw images of any size in, the model's pixels inside.

The image is resized to just cover floor(size / crop) and its centre is cut out. With t the target and s the image's side,

    out = (max(t_h, t_w s_h div s_w), max(t_w, t_h s_w div s_h)),   corner = round((out - size) / 2), halves to even

which are the sizes and corners of ``petiole.data.preprocessing``. Decoding and EXIF orientation stay outside.
"""

from __future__ import annotations

import math
from pathlib import Path

from petiole.data.preprocessing import Preprocessing
from petiole.errors import AdapterError

MODES = {
    "nearest": 'mode="nearest", nearest_mode="round_prefer_ceil"',
    "bilinear": 'mode="linear", antialias=1',
    "bicubic": 'mode="cubic", cubic_coeff_a=-0.5, exclude_outside=1, antialias=1',  # Pillow's kernel
}

GRAPH = """
<ir_version: {ir}, opset_import: ["" : {opset}]>
preprocess (uint8[batch, height, width, 3] images) => (float[batch, 3, {h}, {w}] pixels)
<int64[2] size = {{{h}, {w}}}, int64[2] target = {{{th}, {tw}}}, int64[2] turned = {{{tw}, {th}}},
 int64[1] zero = {{0}}, int64[1] one = {{1}}, int64[1] two = {{2}}, int64[1] three = {{3}}, float half = {{0.5}}, int64[2] axes = {{2, 3}},
 float[1, 3, 1, 1] gain = {{{gain}}}, float[1, 3, 1, 1] shift = {{{shift}}}>
{{
  shape = Shape (images)
  sides = Slice (shape, one, three)
  tall = Slice (sides, zero, one)
  wide = Slice (sides, one, two)
  others = Concat <axis = 0> (wide, tall)
  scaled = Mul (turned, sides)
  covering = Div (scaled, others)
  out = Max (target, covering)
  left_over = Sub (out, size)
  spare = Cast <to = 1> (left_over)
  halved = Mul (spare, half)
  rounded = Round (halved)
  corner = Cast <to = 7> (rounded)
  end = Add (corner, size)
  planes = Transpose <perm = [0, 3, 1, 2]> (images)
  count = Slice (shape, zero, one)
  sizes = Concat <axis = 0> (count, three, out)
  resized = Resize <{mode}> (planes, , , sizes)
  cut = Slice (resized, corner, end, axes)
  numbers = Cast <to = 1> (cut)
  scaled_numbers = Mul (numbers, gain)
  pixels = Add (scaled_numbers, shift)
}}
"""


def prepend(file: Path, stated: Preprocessing) -> None:
    """Let a model take ``images``, uint8 (B, height, width, 3), in the place of ``pixels``.

    Raises:
        AdapterError: ONNX has no such resize.
    """
    if stated.interpolation not in MODES:
        raise AdapterError(
            f"ONNX has no {stated.interpolation} resize, which these weights want. Leave the preprocessing outside the graph: the "
            "usage script does it."
        )
    import onnx
    from onnx import compose, parser

    model = onnx.load(file)
    (h, w), (th, tw) = stated.size, (math.floor(side / stated.crop) for side in stated.size)
    opset = next(one.version for one in model.opset_import if not one.domain)
    text = GRAPH.format(
        ir=model.ir_version,
        opset=opset,
        mode=MODES[stated.interpolation],
        h=h,
        w=w,
        th=th,
        tw=tw,
        gain=", ".join(f"{1 / (255 * s)!r}" for s in stated.std),
        shift=", ".join(f"{-m / s!r}" for m, s in zip(stated.mean, stated.std, strict=True)),
    )
    before = compose.add_prefix(parser.parse_model(text), "preprocess/", rename_inputs=False)
    joined = compose.merge_models(before, model, io_map=[("preprocess/pixels", "pixels")])
    onnx.save(joined, file)
