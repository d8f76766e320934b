"""``petiole sign``: vouch for an adapter, a run or another sealed file."""

from __future__ import annotations

from pathlib import Path
from shlex import quote

from rich.console import Group, RenderableType

from petiole.commands.options import CommandResult, fact
from petiole.commands.verb import verb
from petiole.errors import ConfigError

SEALED = ("adapter.json", "record.json", "comparison.json", "adapter/adapter.json")
"""What of a folder is signed: each seal covers checksums of what lies beside it."""


class Signed(CommandResult):
    """What was signed.

    Attributes:
        path: as it was named.
        signatures: files written.
    """

    path: Path
    signatures: list[Path]

    def text(self) -> RenderableType:
        return Group(
            *(fact("signed", file) for file in self.signatures),
            fact("next", f"petiole verify {quote(str(self.path))} --trusted PUBLIC-KEY"),
        )


@verb
def sign(path: Path, /, *, key: Path) -> Signed:
    """Sign a sealed file, or those of an adapter, run or comparison folder, with an Ed25519 key; writes FILE.sig beside FILE.

    A seal guards against accident: whoever changes a file can seal it again. With a signature, who trusts the public key sees it
    (petiole verify, and --trusted of predict and serve). Needs petiole[sign].

    Args:
        path: the file or folder.
        key: private key, PEM (openssl genpkey -algorithm ed25519) or OpenSSH (ssh-keygen -t ed25519), without a passphrase.

    Raises:
        ConfigError: no such file or key, or the library is missing.
        SignatureError: a file is damaged, or has no seal.
    """
    from petiole.signatures import sign as signed

    files = sealed_files(Path(path))
    return Signed(path=Path(path), signatures=[signed(file, Path(key)) for file in files])


def sealed_files(path: Path) -> list[Path]:
    """The file itself, or what of a folder is signed.

    Raises:
        ConfigError: there is nothing of the kind.
    """
    found = [path / name for name in SEALED if (path / name).is_file()]
    if not found and not path.is_file():
        raise ConfigError(
            f"{path} is no sealed file and holds none of {', '.join(SEALED)}. Give an adapter, run or comparison folder."
        )
    return found or [path]
