"""Ray, as far as it is asked for without a cluster."""

from __future__ import annotations

from types import ModuleType
from typing import Any


class FakeRay(ModuleType):
    """As much of Ray as connecting asks for."""

    def __init__(self, *, begun: bool = False, fails: Exception | None = None) -> None:
        super().__init__("ray")
        self.begun, self.fails, self.asked = begun, fails, list[Any]()

    def is_initialized(self) -> bool:
        return self.begun

    def init(self, *given: Any, **more: Any) -> None:
        if self.fails:
            raise self.fails
        self.asked.append((given, more))
