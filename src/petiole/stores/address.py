"""Addresses of objects and folders in stores: ``s3://bucket/photos``."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from petiole.errors import ConfigError

SCHEMES = ("s3", "gs", "az", "file", "memory", "hf")
# One slash, too: pathlib makes one of two.
_ADDRESS = re.compile(rf"({'|'.join(SCHEMES)}):/+(.*)", re.S)
_REPOSITORY = re.compile(r"((?:datasets/|models/)?[^/]+/[^/]+)/?(.*)", re.S)
_NO_BUCKET = "_"


@dataclass(frozen=True)
class Address:
    """Where something lies in a store.

    Attributes:
        scheme: which store it is.
        bucket: of the store; on the Hugging Face Hub ``OWNER/NAME`` or ``datasets/OWNER/NAME``, with ``@REVISION``; empty for
            ``file``.
        key: of an object, or the folder that keys begin with; no slash at either end.
    """

    scheme: str
    bucket: str
    key: str = ""

    @classmethod
    def parse(cls, text: object) -> Address | None:
        """Read an address; ``None`` for whatever is none, such as a path.

        Raises:
            ConfigError: no bucket, or a key with ``..``.
        """
        found = _ADDRESS.fullmatch(str(text)) if isinstance(text, str | os.PathLike) else None
        if found is None:
            return None
        scheme, rest = found[1], found[2].strip("/")
        if ".." in rest.split("/"):
            raise ConfigError(f"{text}: a key has no '..'. Write it out.")
        if scheme == "file":
            return cls(scheme, "", rest)
        pattern = _REPOSITORY.fullmatch(rest) if scheme == "hf" else None
        bucket, key = pattern.groups() if pattern else rest.partition("/")[::2]
        if not bucket or (scheme == "hf" and not pattern):
            form = (
                "hf://datasets/OWNER/NAME/folder" if scheme == "hf" else f"{scheme}://bucket/folder"
            )
            raise ConfigError(
                f"{text} names no {'repository' if scheme == 'hf' else 'bucket'}. Write {form}."
            )
        return cls(scheme, bucket, key)

    @classmethod
    def of_local(cls, parts: tuple[str, ...]) -> Address:
        """The address whose ``local`` path has these parts; not for the Hub."""
        scheme, bucket, *key = parts
        return cls(scheme, "" if bucket == _NO_BUCKET else bucket, "/".join(key))

    @property
    def store(self) -> Address:
        """Of the whole bucket."""
        return Address(self.scheme, self.bucket)

    @property
    def local(self) -> Path:
        """Its place below a folder of this machine."""
        return Path(self.scheme, self.bucket or _NO_BUCKET, self.key)

    def at(self, key: str) -> Address:
        """Another key of the same bucket."""
        return Address(self.scheme, self.bucket, key)

    def __truediv__(self, name: str) -> Address:
        return self.at(f"{self.key}/{name}".strip("/"))

    def __str__(self) -> str:
        return f"{self.scheme}://{self.bucket}/{self.key}".rstrip("/")
