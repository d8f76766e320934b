"""An exported graph in ONNX Runtime: the engine that serves it on CPUs."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from petiole.errors import AdapterError, ConfigError, boundary

if TYPE_CHECKING:
    from petiole.tasks.classification.adapter import ClassificationAdapter


class OnnxSession:
    """One exported classifier. Threads may share it.

    Args:
        model: the file, or its content.
        threads: that compute one call; 0 leaves it to ONNX Runtime, which takes all cores.

    Raises:
        AdapterError: ONNX Runtime cannot open it.
        ConfigError: ONNX Runtime is not installed.
    """

    def __init__(self, model: Path | bytes, *, threads: int = 0) -> None:
        runtime = onnxruntime()
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3  # it warns of every input that has a default
        with boundary(
            "the model in memory" if isinstance(model, bytes) else model,
            "Export it again.",
            AdapterError,
            what="is no model that ONNX Runtime opens",
        ):
            self.session = runtime.InferenceSession(
                model, options, providers=["CPUExecutionProvider"]
            )
        self.input = self.session.get_inputs()[0].name

    def predict(self, pixels: NDArray[Any]) -> NDArray[np.float32]:
        """Logits (B, K) of pixels (B, 3, H, W) in fp32, or of raw images where the graph preprocesses."""
        logits: NDArray[np.float32] = self.session.run(["logits"], {self.input: pixels})[0]
        return logits

    def outputs(self, pixels: NDArray[Any]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Vectors (B, d) and logits (B, K) of the same."""
        vectors, logits = self.session.run(["vector", "logits"], {self.input: pixels})
        return vectors, logits


def onnx_session(adapter: ClassificationAdapter, *, threads: int = 0) -> OnnxSession:
    """Export an opened adapter to ONNX and open the result, without a file that stays.

    Raises:
        AdapterError: it cannot be exported; the message says why.
    """
    from petiole.tasks.classification.export.onnx import FILE, Onnx

    with TemporaryDirectory() as folder:
        Onnx().write(adapter, Path(folder))
        return OnnxSession(Path(folder) / FILE, threads=threads)


def onnxruntime() -> Any:
    """The library.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import onnxruntime as runtime
    except ImportError as error:
        raise ConfigError(
            f"ONNX Runtime cannot be imported ({error}). Install: pip install 'petiole[onnx]'"
        ) from error
    return runtime
