"""Repositories of the Hugging Face Hub as folders that are read: ``hf://datasets/OWNER/NAME@REVISION/folder``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from petiole.errors import StoreError
from petiole.stores.address import Address
from petiole.stores.base import Entry, Missing, Store


class HubStore(Store):
    """The files of a repository at a revision.

    Args:
        address: of the repository; a revision is a branch, tag or commit, by default main.
    """

    def __init__(self, address: Address) -> None:
        super().__init__(address)
        name, _, revision = address.bucket.partition("@")
        kind, _, rest = name.partition("/") if name.count("/") == 2 else ("models", "", name)
        self._repository = {
            "repo_id": rest,
            "repo_type": kind.removesuffix("s"),
            "revision": revision or "main",
        }

    def read(self, key: str, version: str = "") -> Iterator[bytes]:  # noqa: ARG002  a commit's files do not change
        from huggingface_hub import hf_hub_download

        self.count("get")
        with self._told(key):
            path = Path(hf_hub_download(filename=key, **self._repository))
        with open(path, "rb") as file:
            while piece := file.read(2**20):
                yield piece

    def list(self, folder: str) -> Iterator[Entry]:
        from huggingface_hub import HfApi
        from huggingface_hub.hf_api import RepoFile

        self.count("list")
        with self._told(folder):
            tree = HfApi().list_repo_tree(
                path_in_repo=folder or None, recursive=True, **self._repository
            )
            for found in tree:
                if isinstance(found, RepoFile):
                    name = found.path.removeprefix(folder).lstrip("/")
                    digest = found.lfs.sha256 if found.lfs else ""
                    yield Entry(found.path, name, found.size, found.blob_id, digest)

    def head(self, key: str) -> Entry | None:
        from huggingface_hub import HfApi
        from huggingface_hub.hf_api import RepoFile

        self.count("head")
        with self._told(key):
            for found in HfApi().get_paths_info(paths=[key], **self._repository):
                if isinstance(found, RepoFile):
                    digest = found.lfs.sha256 if found.lfs else ""
                    return Entry(key, key.rpartition("/")[2], found.size, found.blob_id, digest)
        return None

    def put(self, key: str, content: Path | bytes) -> None:  # noqa: ARG002
        self.check_writable()

    def create(self, key: str, content: bytes) -> bool:  # noqa: ARG002
        self.check_writable()
        return False

    def delete(self, key: str) -> None:  # noqa: ARG002
        self.check_writable()

    def check_writable(self) -> None:
        raise StoreError(
            f"{self.address} is only read here; petiole push-to-hub writes adapters to the Hub. Choose another place."
        )

    @contextmanager
    def _told(self, key: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # whatever network, disk or client may raise
            where, said = self.address.at(key), (str(error).splitlines() or [""])[0][:200]
            if type(error).__name__ in ("EntryNotFoundError", "RemoteEntryNotFoundError"):
                raise Missing(f"{where}: no such file. Check the address.") from error
            raise StoreError(
                f"{where}: cannot be had from the Hub ({type(error).__name__}: {said}). Check owner, name and revision, and the "
                "connection; a private one needs HF_TOKEN or `hf auth login`."
            ) from error


def open_bucket(address: Address) -> Store:
    """Open a repository; nothing is asked yet."""
    return HubStore(address)
