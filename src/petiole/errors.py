"""Errors that a person can act on: each says what was wrong, where, and what to do."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path


class PetioleError(Exception):
    """Base of every error that petiole raises on purpose.

    Attributes:
        everywhere: all processes that train together raise it, so the main one says it for them.
    """

    everywhere = False


def everywhere(error: PetioleError) -> PetioleError:
    """Say of an error that all processes that train together raise it."""
    error.everywhere = True
    return error


class DataError(PetioleError):
    """Images, labels or splits that cannot be used as they are."""


class BackboneError(PetioleError):
    """A backbone that cannot be found, built or loaded completely."""


class ConfigError(PetioleError):
    """An unknown name or a value out of range in a method, recipe or command."""


class CacheError(PetioleError):
    """A feature cache that cannot be read or written."""


class StoreError(PetioleError):
    """An object store that cannot be reached, refuses, or holds no such object."""


class AdapterError(PetioleError):
    """An adapter file that is damaged, incomplete or made for another backbone."""


class SignatureError(PetioleError):
    """A file without the signature that was asked for, or changed since it was signed."""


class RunError(PetioleError):
    """A run folder that is in use, incomplete or contradicts the request."""


@contextmanager
def boundary(
    where: object, remedy: str, error: type[PetioleError] = DataError, what: str = "cannot be read"
) -> Iterator[None]:
    """Turn any exception of another library's reader into one of ours, for what it raises cannot be known.

    Args:
        where: the file, or a text that names it and the place in it. A pipe or device is refused before it is opened.
        remedy: a sentence.
        error: the kind of error.
        what: is wrong, if anything is.
    """
    if isinstance(where, Path) and where.exists() and not (where.is_file() or where.is_dir()):
        raise error(f"{where}: is no regular file, and reading it might never end. {remedy}")
    try:
        yield
    except PetioleError:
        raise
    except FileNotFoundError as missing:
        raise error(f"{where}: no such file. Check the path.") from missing
    except Exception as cause:
        said = f"{type(cause).__name__}: {' '.join(str(cause).split())[:300]}".rstrip(": ")
        raise error(f"{where}: {what} ({said}). {remedy}") from cause


def first_line(error: BaseException, silent: str = "no reason given") -> str:
    """The first line of what another library said, or ``silent``: many say more than a person reads, and some nothing."""
    return next(iter(str(error).strip().splitlines()), silent)


def unknown(
    kind: str, name: str, known: Iterable[str], error: type[PetioleError] = ConfigError
) -> PetioleError:
    """Return an error for an unknown ``name`` that lists the nearest known ones first."""
    from difflib import get_close_matches

    names = sorted(known)
    near = get_close_matches(name, names, n=4, cutoff=0.4)
    hint = f"Did you mean {', '.join(near)}?" if near else f"Known: {', '.join(names) or 'none'}."
    return error(f"Unknown {kind} {name!r}. {hint}")
