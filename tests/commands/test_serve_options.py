"""What ``serve`` reads from its options, refuses, and finds."""

from __future__ import annotations

from pathlib import Path

import pytest

import petiole
from petiole.commands.serve import AccessOptions, BoundOptions, PageOptions, _engine, bound, named
from petiole.errors import ConfigError
from petiole.serving.limits import Limits


def test_bounds_reach_the_server() -> None:
    given = BoundOptions(1.5, 20.0, 2.5, 7, 8, 9, 10, 11, 1.5)
    assert given.limits() == Limits(
        wait=1.5, seconds=20.0, body=2_621_440, images=7, pixels=8, batch=9, loaded=10, adapters=11,
        memory=1_572_864,
    )  # fmt: skip
    assert BoundOptions().limits() == Limits(), "both state the defaults"


@pytest.mark.parametrize("name", vars(BoundOptions()))
def test_a_bound_is_above_0(name: str) -> None:
    kind = type(getattr(BoundOptions(), name))
    with pytest.raises(
        ConfigError, match=rf"^{name} must be (at least|more than) [01], not -?[01]"
    ):
        petiole.serve(**{name: kind(-1 if name == "max_memory_mb" else 0)})


def test_a_page_teaches_where_there_is_a_folder(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setenv("PETIOLE_CACHE", "/cache")
    assert PageOptions().lessons(["b"], "cpu") is None
    for out, state in ((None, "runs/new-teach"), (Path("labels"), "labels")):
        lessons = PageOptions(teach=Path("x/new"), teach_out=out).lessons(["b", "c"], "cpu")
        assert lessons is not None
        assert lessons.process.setup() == {
            "images": "x/new", "name": "new", "state": state, "backbone": "b", "device": "cpu",
            "cache": "/cache", "skip_bad": True,
        }  # fmt: skip


def test_graphs_have_no_signature() -> None:
    key = Path("key.pem")
    assert [_engine(engine, None) for engine in ("auto", "torch", "onnx")] == ["auto", "torch", "onnx"]  # type: ignore[arg-type]  # fmt: skip
    assert _engine("auto", key) == _engine("torch", key) == "torch"
    with pytest.raises(ConfigError, match=r"no signature covers"):
        _engine("onnx", key)


def adapter(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "adapter.json").write_text("{}")
    return folder


def test_adapters_are_called_by_their_folders(tmp_path: Path) -> None:
    run, own = adapter(tmp_path / "runs/birds/adapter"), adapter(tmp_path / "trees")
    assert named([run.parent, own], False) == ({"birds": run.parent, "trees": own}, None)
    assert named([run, own], False) == ({"birds": run, "trees": own}, None)
    assert named([own], False) == ({"trees": own}, None), "one adapter is no pool"
    pool = tmp_path / "runs"
    assert named([pool], False) == ({"birds": run}, pool)
    (tmp_path / "empty").mkdir()
    assert named([tmp_path / "empty"], True) == ({}, tmp_path / "empty")
    assert named([], True) == ({}, None)
    for given, said in (
        ([], "^Nothing to serve: name adapters"),
        ([tmp_path / "empty"], f"^Nothing to serve in {tmp_path / 'empty'}: name"),
        ([tmp_path / "none"], "no such folder. Name adapters"),
        ([own, adapter(tmp_path / "x/trees")], f"^{own} and .*x/trees have one name, trees"),
    ):
        with pytest.raises(ConfigError, match=said):
            named(given, False)


def test_a_socket_sends_at_once() -> None:
    import socket

    with bound("127.0.0.1", 0) as listening:
        assert listening.family == socket.AF_INET
        assert listening.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert listening.getsockname()[1] > 0
    assert AccessOptions().host == "127.0.0.1"
