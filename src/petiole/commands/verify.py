"""``petiole verify``: whether the owner of a key vouches for an adapter, a run or another sealed file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType

from petiole.commands.options import CommandResult, fact
from petiole.commands.sign import sealed_files
from petiole.commands.verb import verb
from petiole.errors import SignatureError, boundary


class Verified(CommandResult):
    """What holds.

    Attributes:
        files: whose signatures hold.
        covered: files beside them that are those that the signed ones describe.
    """

    files: list[Path]
    covered: list[Path]

    def text(self) -> RenderableType:
        return Group(
            *(fact("verified", file) for file in self.files),
            *(fact("covered", file) for file in self.covered),
        )


@verb
def verify(path: Path, /, *, trusted: Path) -> Verified:
    """Check the signatures of an adapter, a run or another sealed file, and what the signed files say of those beside them.

    Args:
        path: the file or folder.
        trusted: public key of who should have signed it, PEM or OpenSSH.

    Raises:
        SignatureError: not signed, signed by another key, or changed since.
        ConfigError: no such file or key, or the library is missing.
    """
    from petiole.files import read_sealed
    from petiole.signatures import check_signature

    files, covered = sealed_files(Path(path)), []
    for file in files:
        with boundary(file, "Get it again, whole.", SignatureError):
            content = read_sealed(file)
        check_signature(file, content, Path(trusted))
        covered += _covered(file, content)
    return Verified(files=files, covered=sorted(set(covered) - set(files)))


def _covered(file: Path, content: Mapping[str, Any]) -> list[Path]:
    """What a signed manifest or record says of the files beside it.

    Raises:
        SignatureError: one is missing or another.
    """
    from petiole.files import sha256

    stated = dict(content["files"]) if file.name == "record.json" else {}
    if file.name == "adapter.json":
        stated = {"adapter.safetensors": content["tensors_sha256"]}
    for name, digest in stated.items():
        place = file.parent / name
        if not place.is_file() or sha256(place) != digest:
            raise SignatureError(
                f"{place} is missing or not the one that {file.name} describes (checksum differs). Get it again, whole."
            )
    return [file.parent / name for name in stated]
