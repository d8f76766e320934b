"""API keys: only their SHA-256 is kept, and all are compared in constant time."""

from __future__ import annotations

import hashlib
import hmac
import re
from pathlib import Path

from petiole.errors import ConfigError, boundary

LINE = re.compile(r"(?P<name>[\w.-]+)\s+(?P<digest>[0-9a-f]{64})")


class ApiKeys:
    """Keys of a file with a name and a SHA-256 (hex) a line; # begins a comment.

    A key is long and random, so that a plain hash of it cannot be guessed.

    Raises:
        ConfigError: the file cannot be read, or a line of it is none.
    """

    def __init__(self, file: Path) -> None:
        self.digests: dict[str, str] = {}
        with boundary(file, "Check it.", ConfigError, what="the keys cannot be read"):
            lines = file.read_text(encoding="utf-8").splitlines()
        for number, text in enumerate(lines, 1):
            if not (line := text.partition("#")[0].strip()):
                continue
            if not (found := LINE.fullmatch(line)):
                raise ConfigError(
                    f"{file}, line {number}: a line is a name and the SHA-256 of a key (64 hex digits): "
                    "`printf %s KEY | sha256sum` gives it."
                )
            self.digests[found["name"]] = found["digest"]
        if not self.digests:
            raise ConfigError(f"{file} has no keys, so nobody could ask. Add a line.")

    def name_of(self, key: str) -> str | None:
        """Whose key it is; ``None`` for nobody's."""
        digest = hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()
        matches = [n for n, d in self.digests.items() if hmac.compare_digest(d, digest)]
        return matches[0] if matches else None
