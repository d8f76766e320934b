"""The contract of methods and backbones, for authors of plug-ins; the project's own tests call the same.

    from petiole.testing import check_backbone, check_method

    def test_my_method():
        check_method("my-method")            # on a tiny model of every family that it can adapt

    def test_my_backbone():
        check_backbone("my/backbone")        # or one that is built already

Both work offline and need no pytest. ``ContractError``, an ``AssertionError``, says which clause broke, on which model, what
that means for users and what to do.
"""

from petiole.testing.checked_backbones import check_backbone
from petiole.testing.contract import ContractError
from petiole.testing.methods import check_method

__all__ = ["ContractError", "check_backbone", "check_method"]
