"""Matrices of an ONNX graph in 8 bits, by ONNX Runtime's own tools; convolutions stay as they are."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from petiole.tasks.classification.export.network import quiet


def quantise(file: Path, how: Literal["dynamic", "weights"]) -> None:
    """Change a model in place.

    Args:
        file: ONNX in fp32.
        how: ``dynamic`` rounds activations as well, by their range in each call; ``weights`` keeps them in fp32, with one
            scale for each 32 weights of a column.
    """
    import onnx

    with quiet():
        if how == "dynamic":
            from onnxruntime.quantization import QuantType, quantize_dynamic

            quantize_dynamic(
                file, file, op_types_to_quantize=["MatMul", "Gemm"], weight_type=QuantType.QInt8
            )
            return
        from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

        model = MatMulNBitsQuantizer(onnx.load(file), bits=8, block_size=32, is_symmetric=True)
        model.process()
        model.model.save_model_to_file(str(file))
