"""torch's compiler stays out while timm is imported, and is whole when somebody compiles."""

from __future__ import annotations

import subprocess
import sys

COMPILES = """
import sys
from petiole.deferred import COMPILER, UTILS, _Finder, defer_compiler, disable, without_compiler
defer_compiler()
defer_compiler()
assert sum(isinstance(finder, _Finder) for finder in sys.meta_path) == 1
import timm
assert not {COMPILER, UTILS, "sympy"} & sys.modules.keys(), "imported with timm"
import torch

inside = []

@disable
def eager(x):
    inside.append(torch.compiler.is_compiling())
    return x + 1

with without_compiler():  # eager asks for no compiler within a stand-in's time either
    assert eager(torch.ones(1)) == 2
assert COMPILER not in sys.modules, "nothing was compiled yet"
compiled = torch.compile(lambda x: eager(2 * x), backend="eager")
assert compiled(torch.ones(1)) == 3
assert inside == [False, False], "the compiler leaves such functions out"
with without_compiler():  # it is there now
    assert torch.compile(lambda x: 3 * x, backend="eager")(torch.ones(1)) == 3
from torch._dynamo.utils import counters, is_compile_supported
from torchvision.ops.roi_align import is_compile_supported as given
assert counters["graph_break"]
assert given is not is_compile_supported and given("cpu") == is_compile_supported("cpu")
"""


def test_the_compiler_is_imported_when_something_is_compiled() -> None:
    done = subprocess.run([sys.executable, "-c", COMPILES], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
