"""Buckets of S3, Google Cloud and Azure, folders of this machine and of memory, through the library obstore."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from petiole.errors import StoreError
from petiole.stores.address import Address
from petiole.stores.base import Entry, Missing, Store

PATIENCE = "PETIOLE_STORE_PATIENCE"
"""Environment variable: seconds for which a store that does not answer is asked again; by default 120."""

_CREDENTIALS = {
    "s3": "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (AWS_SESSION_TOKEN), or AWS_SKIP_SIGNATURE=true for a public bucket; "
    "AWS_REGION, and AWS_ENDPOINT_URL for a server that is not Amazon's.",
    "gs": "Set GOOGLE_APPLICATION_CREDENTIALS to a key file, or log in: gcloud auth application-default login.",
    "az": "Set AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY (or AZURE_STORAGE_SAS_TOKEN), or log in: az login.",
    "file": "Make the folder readable and writable.",
    "memory": "",
}
_SIGNS = ("credential", "169.254.169.254", "metadata.google", "token", "oauth")


class ObjectStore(Store):
    """A bucket behind obstore.

    Args:
        address: of the bucket.
        client: of obstore.
    """

    def __init__(self, address: Address, client: Any) -> None:
        super().__init__(address)
        self._client = client

    def read(self, key: str, version: str = "") -> Iterator[bytes]:
        import obstore

        self.count("get")
        with self._told(key):
            options: Any = {"if_match": version} if version else {}
            for piece in obstore.get(self._client, key, options=options).stream():
                yield bytes(piece)

    def list(self, folder: str) -> Iterator[Entry]:
        import obstore

        seen = 0
        self.count("list")
        with self._told(folder):
            for page in obstore.list(self._client, folder or None, chunk_size=1000):
                for found in page:
                    seen += 1
                    if seen % 1000 == 1 and seen > 1:
                        self.count("list")
                    yield _entry(found, folder)

    def head(self, key: str) -> Entry | None:
        import obstore

        self.count("head")
        try:
            with self._told(key):
                return _entry(obstore.head(self._client, key), key)
        except Missing:
            return None

    def put(self, key: str, content: Path | bytes) -> None:
        import obstore

        self.count("put")
        with self._told(key):
            obstore.put(self._client, key, content)

    def create(self, key: str, content: bytes) -> bool:
        import obstore
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        self.count("put")
        with self._told(key):
            try:
                obstore.put(self._client, key, content, mode="create")
            except (AlreadyExistsError, PreconditionError):
                return False
        return True

    def delete(self, key: str) -> None:
        import obstore

        self.count("delete")
        try:
            with self._told(key):
                obstore.delete(self._client, key)
        except Missing:
            return

    @contextmanager
    def _told(self, key: str) -> Iterator[None]:
        """Turn whatever obstore raises into an error that says what to do."""
        from obstore.exceptions import PreconditionError

        where = self.address.at(key)
        try:
            yield
        except StoreError:
            raise
        except PreconditionError as error:
            raise Missing(
                f"{where}: was replaced since it was listed. Repeat the command when nothing writes there."
            ) from error
        except Exception as error:  # obstore's own, and those of Rust's libraries below it
            raise self._error(where, error) from error

    def _error(self, where: Address, error: Exception) -> StoreError:
        text = str(error).partition("\n\nDebug source")[0].strip()
        # The server's answer, without what the client adds: URLs with signatures.
        said = f"{type(error).__name__}: {' '.join(text.split())[:300]}"
        if "NoSuchBucket" in str(error):
            return StoreError(
                f"{where}: there is no bucket {self.address.bucket!r}. Check its name, or make it."
            )
        if isinstance(error, FileNotFoundError):
            return Missing(f"{where}: no such object. Check the address.")
        kind, scheme = type(error).__name__, self.address.scheme
        if kind in ("PermissionDeniedError", "UnauthenticatedError"):
            return StoreError(f"{where}: access is denied. {_CREDENTIALS[scheme]}")
        if any(sign in str(error).lower() for sign in _SIGNS):
            return StoreError(
                f"{where}: there are no credentials for it ({said}). {_CREDENTIALS[scheme]}"
            )
        return StoreError(
            f"{where}: cannot be had from the store ({said}). Check the connection and the endpoint, and repeat the command: what "
            "was fetched is kept."
        )


def open_bucket(address: Address) -> Store:
    """Open a bucket; nothing is asked yet.

    Raises:
        StoreError: obstore is not installed, or refuses what the environment says.
    """
    try:
        import obstore.store as stores
    except ImportError as error:
        raise StoreError(
            f"{address} needs the library obstore. Run `pip install 'petiole[stores]'`."
        ) from error
    seconds = float(os.environ.get(PATIENCE, "120"))
    retry: Any = {
        "max_retries": 1000,
        "retry_timeout": timedelta(seconds=seconds),
        "backoff": {"max_backoff": timedelta(seconds=4)},
    }
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
    options: Any = {"allow_http": endpoint.startswith("http://")}
    try:
        match address.scheme:
            case "s3":
                # The region is part of a signature, and servers other than Amazon's take any.
                region = (
                    os.environ.get("AWS_REGION")
                    or os.environ.get("AWS_DEFAULT_REGION")
                    or "us-east-1"
                )
                client: Any = stores.S3Store(
                    address.bucket, region=region, retry_config=retry, client_options=options
                )
            case "gs":
                client = stores.GCSStore(address.bucket, retry_config=retry)
            case "az":
                client = stores.AzureStore(address.bucket, retry_config=retry)
            case "file":
                client = stores.LocalStore("/")
            case _:
                client = stores.MemoryStore()
    except Exception as error:  # settings of the environment that it does not take
        raise StoreError(
            f"{address}: cannot be opened ({error}). {_CREDENTIALS[address.scheme]}"
        ) from error
    return ObjectStore(address, client)


def _entry(found: Any, folder: str) -> Entry:
    key = found["path"]
    name = key.removeprefix(folder).lstrip("/") or key.rpartition("/")[2]
    return Entry(key, name, found["size"], found["e_tag"] or "")
