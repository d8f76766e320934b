"""JSON and JSON Lines as rows whose errors name the file, the place, the field and the remedy."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from petiole.errors import DataError, boundary


@dataclass(frozen=True)
class JsonRow:
    """One JSON object and where it stands.

    Attributes:
        where: file and line, or file and index counted from 0.
        values: the object.
        number: the line, counted from 1; 0 in other files.
    """

    where: str
    values: Mapping[str, Any]
    number: int = 0

    def __contains__(self, field: str) -> bool:
        return self.values.get(field) is not None

    def text(self, field: str) -> str:
        """Return a string, stripped.

        Raises:
            DataError: the field is absent or no string; so do all methods, each for its own type.
        """
        value = self._get(field)
        if not isinstance(value, str):
            raise self.wrong(field, "must be a string")
        return value.strip()

    def name(self, field: str) -> str:
        """Return a string that is not empty, stripped, or an integer as a string."""
        value = self._get(field)
        if isinstance(value, bool) or not isinstance(value, str | int) or not str(value).strip():
            raise self.wrong(field, "must be a text that is not empty, or a whole number")
        return str(value).strip()

    def texts(self, field: str) -> tuple[str, ...]:
        """Return a list of strings, each stripped."""
        value = self._get(field)
        if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
            raise self.wrong(field, "must be a list of strings")
        return tuple(v.strip() for v in value)

    def scores(self, field: str) -> dict[str, float]:
        """Return an object of finite weights > 0 by string."""
        value = self._get(field)
        if not isinstance(value, dict) or not all(_weight(v) for v in value.values()):
            raise self.wrong(field, 'must give each answer a weight above 0, like {"red": 0.9}')
        return {key: float(weight) for key, weight in value.items()}

    def rows(self, field: str) -> list[JsonRow]:
        """Return a list of objects as rows."""
        value = self._get(field)
        if not isinstance(value, list) or not all(isinstance(v, dict) for v in value):
            raise self.wrong(field, "must be a list of objects")
        return [JsonRow(f"{self.where}, {field}[{i}]", v) for i, v in enumerate(value)]

    def value(self, field: str, known: Mapping[Any, str]) -> str:
        """Return what a value stands for, by a table of all values that may stand here."""
        value = self._get(field)
        if not isinstance(value, str | int) or value not in known:
            raise self.wrong(field, f"must be one of {', '.join(map(repr, known))}")
        return known[value]

    def wrong(self, field: str, problem: str) -> DataError:
        """Return the error of a field that cannot be used."""
        shown = json.dumps(self.values.get(field), ensure_ascii=False)
        return DataError(
            f"{self.where}: field {field!r} {problem}; it is {shown:.80}. Correct it there."
        )

    def _get(self, field: str) -> Any:
        if field not in self:
            raise DataError(
                f"{self.where}: field {field!r} is missing; it has {', '.join(self.values) or 'none'}. "
                "Add it there."
            )
        return self.values[field]


def read_lines(path: Path) -> Iterator[JsonRow]:
    """Read a JSON Lines file; empty lines are passed over.

    Raises:
        DataError: no such file, not UTF-8, or a line that is no JSON object.
    """
    for number, line in enumerate(_read(path).split("\n"), start=1):
        if line.strip():
            where = f"{path}, line {number}"
            yield _row(where, _parsed(where, line), number)


def read_list(path: Path, field: str | None = None) -> list[JsonRow]:
    """Read a JSON list of objects, or the list in ``field`` of a JSON object.

    Raises:
        DataError: no such file, not UTF-8 or JSON, or something else than such a list.
    """
    content = _parsed(str(path), _read(path))
    if field is not None:
        return _row(str(path), content).rows(field)
    if not isinstance(content, list):
        raise DataError(f"{path}: must hold a JSON list of objects. Export it again as one.")
    return [_row(f"{path}, item {i}", value) for i, value in enumerate(content)]


def read_object(path: Path) -> JsonRow:
    """Read a file that holds one JSON object.

    Raises:
        DataError: no such file, not UTF-8, or no JSON object.
    """
    return _row(str(path), _parsed(str(path), _read(path)))


def _read(path: Path) -> str:
    with boundary(path, "Export it again.", what="not readable as UTF-8"):
        return path.read_text(encoding="utf-8-sig")  # -sig: some editors write a byte-order mark


def _parsed(where: str, text: str) -> Any:
    with boundary(where, "Correct it there.", what="not JSON"):
        value = json.loads(text, object_pairs_hook=_each_once)
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode()  # half a surrogate pair is no text
        return value


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the field {twice!r} stands twice in one object")
    return found


def _row(where: str, value: Any, number: int = 0) -> JsonRow:
    if not isinstance(value, dict):
        raise DataError(f'{where}: must be a JSON object, like {{"image": "a.jpg"}}.')
    return JsonRow(where, value, number)


def _weight(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1e9
