"""Adapters on the Hugging Face Hub: ``hf:OWNER/NAME`` or ``hf:OWNER/NAME@REVISION`` in the place of a folder.

What comes from there is opened like any folder: bounded, sealed, nothing unpickled.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

from petiole.engine.adapter import MANIFEST, TENSORS, read_manifest
from petiole.engine.hub_card import card
from petiole.errors import AdapterError, ConfigError, first_line
from petiole.files import write_sealed, write_text
from petiole.signatures import SIGNATURE

PREFIX = "hf:"
FILES = (MANIFEST, MANIFEST + SIGNATURE, TENSORS, "peft/*")
_NAME = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?")


def download(name: str) -> Path:
    """The folder of an adapter, from the hub or from its cache.

    Args:
        name: ``hf:OWNER/NAME`` or ``hf:OWNER/NAME@REVISION`` (a branch, tag or commit).

    Raises:
        AdapterError: no such name, or it can neither be reached nor is in the cache.
    """
    from huggingface_hub import snapshot_download

    parts = _NAME.fullmatch(name.removeprefix(PREFIX))
    if parts is None:
        raise AdapterError(
            f"{name} is no name on the hub. Write hf:OWNER/NAME or hf:OWNER/NAME@REVISION."
        )
    try:
        return Path(
            snapshot_download(parts["repo"], revision=parts["revision"], allow_patterns=[*FILES])
        )
    except Exception as error:  # whatever network, disk or client may raise
        raise AdapterError(
            f"{name} cannot be had from the hub ({_said(error)}). Check owner, name and revision, and the connection; "
            "a private one needs HF_TOKEN or `hf auth login`."
        ) from error


def push(folder: Path, run: Path | None, repo: str, *, private: bool = False) -> str:
    """Write an adapter to the hub, with a card made from its manifest and, where it has one, its record.

    Args:
        folder: with adapter.json.
        run: folder with record.json around it.
        repo: OWNER/NAME; made if it does not exist.
        private: make it so that others do not see it.

    Returns:
        The address of the commit.

    Raises:
        ConfigError: no such name is possible, or the hub refuses.
    """
    from huggingface_hub import HfApi

    if not _NAME.fullmatch(repo) or "@" in repo:
        raise ConfigError(f"{repo!r} is no name on the hub. Write OWNER/NAME.")
    with TemporaryDirectory() as temporary:
        staging = Path(temporary)
        for pattern in FILES:
            for file in folder.glob(pattern):
                (staging / file.relative_to(folder)).parent.mkdir(exist_ok=True)
                shutil.copyfile(file, staging / file.relative_to(folder))
        _forget_places(staging)
        write_text(staging / "README.md", card(folder, run, repo))
        try:
            api = HfApi()
            api.create_repo(repo, private=private, exist_ok=True)
            made = api.upload_folder(
                repo_id=repo, folder_path=staging, commit_message="Adapter written by petiole"
            )
        except Exception as error:  # whatever network, disk or client may raise
            raise ConfigError(
                f"The hub did not take {repo} ({_said(error)}). Check the name, the connection, and that HF_TOKEN or "
                "`hf auth login` gives a token that may write there."
            ) from error
    return str(made.commit_url)


def _said(error: Exception) -> str:
    """Kind and first line of what a client raised, of bounded length."""
    return f"{type(error).__name__}: {first_line(error)[:200]}"


def _forget_places(folder: Path) -> None:
    """Take paths of this machine out of the manifest: they would tell others its owner, and open nothing."""
    manifest = read_manifest(folder)
    seen = manifest.backbone
    tower = seen.vision_backbone and seen.vision_backbone.model_copy(update={"weights": None})
    plain = seen.model_copy(update={"weights": None, "vision_backbone": tower})
    if plain != seen:
        stated = manifest.model_copy(update={"backbone": plain})
        write_sealed(folder / MANIFEST, stated.model_dump(mode="json"))
        (folder / (MANIFEST + SIGNATURE)).unlink(missing_ok=True)  # of what it was
