"""Ask a server of ``petiole serve``, from code that waits or from code that awaits.

    client = petiole.Client("http://127.0.0.1:8000", key="...")
    client.predict(["a.jpg", "b.jpg"], adapter="shoes", top=3)["predictions"]

A request that was refused for load (429), met a process that is being started (503) or no connection is repeated: after the
time that the server states, else after 0.1 s, 0.2 s, 0.4 s, ..., each times a random factor of 0.5 to 1.5, so that
clients that were refused together do not come back together.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Generator, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from petiole.errors import ConfigError, PetioleError, boundary

AGAIN = (429, 503)
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 10.0
Image = str | Path | bytes


class ServerError(PetioleError):
    """A server's refusal, in its own words.

    Attributes:
        status: of HTTP; 0 where no connection was made.
        code: for programs.
    """

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


class _Requests:
    """What both clients send, and what they make of the answers.

    Args:
        url: of the server.
        key: one of its API keys, if it has any.
        retries: of a request.
        seconds: that an answer may take.
        options: of ``httpx2.Client`` or ``httpx2.AsyncClient``.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        *,
        key: str | None = None,
        retries: int = 5,
        seconds: float = 60.0,
        **options: Any,
    ) -> None:
        try:
            import httpx2
        except ModuleNotFoundError as error:
            raise ConfigError("The client needs httpx2: pip install 'petiole[serve]'.") from error
        self._library, self.retries = httpx2, retries
        headers = {"authorization": f"Bearer {key}"} if key else {}
        self._http = self._connect(base_url=url, timeout=seconds, headers=headers, **options)

    def _connect(self, **options: Any) -> Any:
        raise NotImplementedError

    def _attempts(self, method: str, path: str, **options: Any) -> Generator[Any, Any, Any]:
        """Yields what to do next, a request or a pause, is sent the response or error, and returns the answer."""
        for attempt in range(self.retries + 1):
            answer = yield (method, path, options)
            unreached = isinstance(answer, Exception)
            if not unreached and answer.status_code not in AGAIN:
                return _content(answer)
            if attempt < self.retries:
                stated = 0.0 if unreached else float(answer.headers.get("retry-after", 0))
                pause = min(stated or FIRST_PAUSE * 2**attempt, LONGEST_PAUSE)
                yield pause * random.uniform(0.5, 1.5)
        if unreached:
            raise ServerError(
                0, "connection", f"{self._http.base_url} cannot be reached: {answer}. Is it served?"
            ) from answer
        return _content(answer)

    def _predict(self, images: Any, **fields: Any) -> Generator[Any, Any, Any]:
        return self._attempts("POST", "/v1/predict", **_form(images, fields))

    def _embed(self, images: Any, **fields: Any) -> Generator[Any, Any, Any]:
        return self._attempts("POST", "/v1/embed", **_form(images, fields))

    def _ask(self, question: str, image: Any, **fields: Any) -> Generator[Any, Any, Any]:
        form = _form([] if image is None else [image], {"question": question, **fields}, "image")
        return self._attempts("POST", "/v1/ask", **form)

    def _put(self, name: str, folder: str | Path) -> Generator[Any, Any, Any]:
        place = Path(folder)
        place = place if (place / "adapter.json").is_file() else place / "adapter"
        with boundary(place, "Give the folder of an adapter or a run.", ConfigError):
            files = {
                kind: (place / f"adapter.{kind}").read_bytes() for kind in ("json", "safetensors")
            }
        return self._attempts("PUT", f"/v1/adapters/{name}", files=files)


class Client(_Requests):
    """A client that waits; threads may share it."""

    def _connect(self, **options: Any) -> Any:
        return self._library.Client(**options)

    def predict(
        self,
        images: Image | Sequence[Image],
        *,
        adapter: str | None = None,
        top: int = 5,
        coverage: float | None = None,
        abstain: float | None = None,
    ) -> Any:
        """Label images: paths, or the bytes of files.

        Args:
            images: one or several.
            adapter: by default the server's only one.
            top: classes that are told of each image.
            coverage: ask for sets of labels that hold the true one so often.
            abstain: mark images whose most probable class is less probable.

        Raises:
            ServerError: it says no, or is not there.
        """
        return self._run(
            self._predict(images, adapter=adapter, top=top, coverage=coverage, abstain=abstain)
        )

    def embed(
        self, images: Image | Sequence[Image], *, adapter: str | None = None, adapted: bool = True
    ) -> Any:
        """Vectors that the adapter's head sees, or, without ``adapted``, those of its frozen backbone.

        Raises:
            ServerError: it says no, or is not there.
        """
        return self._run(self._embed(images, adapter=adapter, adapted=adapted))

    def ask(
        self,
        question: str,
        image: Image | None = None,
        *,
        adapter: str | None = None,
        task: str = "",
    ) -> Any:
        """Put a question to a language model.

        Raises:
            ServerError: it says no, or is not there.
        """
        return self._run(self._ask(question, image, adapter=adapter, task=task))

    def adapters(self) -> Any:
        """All adapters of the server."""
        return self._run(self._attempts("GET", "/v1/adapters"))["adapters"]

    def put(self, name: str, folder: str | Path) -> Any:
        """Upload an adapter or run folder, perhaps in the place of another one.

        Raises:
            ConfigError: there is no adapter.
            ServerError: the server does not take it.
        """
        return self._run(self._put(name, folder))

    def delete(self, name: str) -> None:
        """Let an adapter of the server go."""
        self._run(self._attempts("DELETE", f"/v1/adapters/{name}"))

    def close(self) -> None:
        """Close its connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _run(self, steps: Generator[Any, Any, Any]) -> Any:
        told: Any = None
        try:
            while True:
                step = steps.send(told)
                told = None
                if isinstance(step, float):
                    time.sleep(step)
                    continue
                method, path, options = step
                try:
                    told = self._http.request(method, path, **options)
                except self._library.TransportError as error:
                    told = error
        except StopIteration as end:
            return end.value


class AsyncClient(_Requests):
    """The same for code that awaits; see ``Client``."""

    def _connect(self, **options: Any) -> Any:
        return self._library.AsyncClient(**options)

    async def predict(self, images: Image | Sequence[Image], **fields: Any) -> Any:
        """See ``Client.predict``."""
        return await self._run(self._predict(images, **fields))

    async def embed(self, images: Image | Sequence[Image], **fields: Any) -> Any:
        """See ``Client.embed``."""
        return await self._run(self._embed(images, **fields))

    async def ask(self, question: str, image: Image | None = None, **fields: Any) -> Any:
        """See ``Client.ask``."""
        return await self._run(self._ask(question, image, **fields))

    async def adapters(self) -> Any:
        """See ``Client.adapters``."""
        return (await self._run(self._attempts("GET", "/v1/adapters")))["adapters"]

    async def put(self, name: str, folder: str | Path) -> Any:
        """See ``Client.put``."""
        return await self._run(self._put(name, folder))

    async def delete(self, name: str) -> None:
        """See ``Client.delete``."""
        await self._run(self._attempts("DELETE", f"/v1/adapters/{name}"))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._http.aclose()

    async def _run(self, steps: Generator[Any, Any, Any]) -> Any:
        told: Any = None
        try:
            while True:
                step = steps.send(told)
                told = None
                if isinstance(step, float):
                    await asyncio.sleep(step)
                    continue
                method, path, options = step
                try:
                    told = await self._http.request(method, path, **options)
                except self._library.TransportError as error:
                    told = error
        except StopIteration as end:
            return end.value


def _form(images: Any, fields: dict[str, Any], name: str = "images") -> dict[str, Any]:
    """A form of image files and of the fields that say something."""
    several: Iterable[Any] = [images] if isinstance(images, str | Path | bytes) else images
    files = [(name, one if isinstance(one, bytes) else _read(one)) for one in several]
    data = {key: _text(value) for key, value in fields.items() if value is not None}
    fields_as_parts = [(key, (None, value)) for key, value in data.items()]
    return {"files": [*fields_as_parts, *files]}


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _read(path: str | Path) -> bytes:
    with boundary(Path(path), "Check the path.", ConfigError):
        return Path(path).read_bytes()


def _content(answer: Any) -> Any:
    if answer.is_success:
        return answer.json() if answer.content else None
    try:
        error = answer.json()["error"]
        raise ServerError(answer.status_code, error["code"], error["message"])
    except (json.JSONDecodeError, KeyError, TypeError):
        text = f"HTTP {answer.status_code}: {answer.text[:200]}"
        raise ServerError(answer.status_code, "http", text) from None
