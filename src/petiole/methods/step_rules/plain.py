"""One gradient, one step."""

from torch import Tensor

from petiole.methods.step_rules.base import STEP_RULES, StepContext, StepRule


@STEP_RULES.register("plain", "one gradient, one step")
class Plain(StepRule):
    """theta <- optimiser(theta, grad L(theta))."""

    def __init__(self) -> None:
        super().__init__()

    def step(self, context: StepContext) -> Tensor:
        loss = context.evaluate()
        context.update()
        return loss
