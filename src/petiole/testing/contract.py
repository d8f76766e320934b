"""Contracts as lists of clauses: what a clause demands, what it means when it breaks, and what to do then.

    @clause(means="...", remedy="...")
    def survives_saving(case: Case) -> None:
        require(torch.equal(got, want), "the logits differ after saving")

A clause is an ordinary function of a case (a method on a backbone, say) and breaks by ``require``, by any failed
assertion or by an unforeseen error. ``hold`` runs clauses in order and turns the first that breaks into a
``ContractError`` that says all of it. Nothing here needs pytest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from traceback import extract_tb
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

C = TypeVar("C")


class ContractError(AssertionError):
    """A method or a backbone breaks a clause of its contract.

    Attributes:
        subject: what was checked, e.g. ``method 'my-lora' on backbone 'test/vit'``.
        clause: name of the clause that broke, e.g. ``survives_saving``.
    """

    def __init__(self, subject: str, clause: str, what: str, means: str, remedy: str) -> None:
        self.subject, self.clause = subject, clause
        super().__init__(
            f"The contract does not hold for {subject}.\n"
            f"  clause: {clause.replace('_', ' ')}\n"
            f"  found:  {what}\n"
            f"  means:  {means}\n"
            f"  remedy: {remedy}"
        )


class Unmet(AssertionError):
    """A requirement inside a clause is not met; ``hold`` reports it as a ``ContractError``."""


@dataclass(frozen=True)
class Clause(Generic[C]):
    """One demand on a case.

    Attributes:
        check: raises where the demand is not met.
        means: what a user of the method or backbone would meet, if it broke.
        remedy: where its author should look.
    """

    check: Callable[[C], None]
    means: str
    remedy: str

    @property
    def name(self) -> str:
        """The function's name, which is the demand in words."""
        return self.check.__name__

    def __call__(self, case: C) -> None:
        """Check the case."""
        self.check(case)


def clause(*, means: str, remedy: str) -> Callable[[Callable[[C], None]], Clause[C]]:
    """Function decorator: make a clause of a check, see ``Clause``."""

    def add(check: Callable[[C], None]) -> Clause[C]:
        return Clause(check, means, remedy)

    return add


def hold(clauses: Sequence[Clause[C]], case: C, subject: str) -> None:
    """Check all clauses.

    Args:
        clauses: in the order in which they are checked; later ones may rest on earlier ones.
        case: what they are about.
        subject: the case in words, for the message.

    Raises:
        ContractError: the first clause that breaks, whether by a requirement or by an unforeseen error; the original
            error is its cause, so the traceback shows the line.
    """
    for one in clauses:
        try:
            one(case)
        except Exception as error:
            raise ContractError(
                subject, one.name, _found(error), one.means, _remedy(error, one)
            ) from error


def _found(error: Exception) -> str:
    """The error in one line; its type where it is none of ours."""
    text = " ".join(str(error).split()) or "an assertion without words failed"
    return text if isinstance(error, Unmet) else f"an unforeseen {type(error).__name__}: {text}"


def _remedy(error: Exception, clause: Clause[Any]) -> str:
    """That of the clause; behind the author's last line on the way to an error that no clause foresaw."""
    frames = [f for f in extract_tb(error.__traceback__) if not _is_installed(Path(f.filename))]
    if isinstance(error, AssertionError) or not frames:
        return clause.remedy
    last = frames[-1]
    return f"The error came out of {last.filename}, line {last.lineno}: {last.line}. Otherwise: {clause.remedy}"


def _is_installed(file: Path) -> bool:
    return "site-packages" in file.parts or file.is_relative_to(Path(__file__).parents[1])


def require(condition: object, what: str) -> None:
    """Raise Unmet with ``what`` unless the condition is true; unlike ``assert`` also under ``python -O``."""
    if not condition:
        raise Unmet(what)


def require_equal(got: Any, want: Any, what: str) -> None:
    """Raise Unmet unless both are the same: tensors bit by bit, other values by ``==``."""
    if isinstance(got, Tensor) and isinstance(want, Tensor):
        same = torch.equal(got, want)
        require(same, f"{what} {'' if same else difference(got, want)}")
    else:
        require(got == want, f"{what}: {got} instead of {want}")


def require_close(
    got: Tensor, want: Tensor, tolerance: float, what: str, *, scale: float | None = None
) -> None:
    """Raise Unmet unless tensors agree.

    Args:
        got: any shape.
        want: the same shape.
        tolerance: relative and absolute.
        what: of the message.
        scale: multiplies an absolute tolerance, and nothing is relative then; for rows whose entries are sums of larger
            ones.
    """
    relative, absolute = (tolerance, tolerance) if scale is None else (0.0, tolerance * scale)
    same = got.shape == want.shape and torch.allclose(got, want, relative, absolute)
    require(same, f"{what} {'' if same else difference(got, want)}")


def difference(got: Tensor, want: Tensor) -> str:
    """How two tensors differ, in words."""
    if got.shape != want.shape:
        return f"have shape {tuple(got.shape)} instead of {tuple(want.shape)}"
    if not got.numel():
        return "are empty"
    largest = float((got.double() - want.double()).abs().max())
    return f"differ by up to {largest:.2g} (of {float(want.double().abs().max()):.2g})"
