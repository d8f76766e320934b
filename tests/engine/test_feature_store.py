"""The feature cache: what it stores comes back to the bit, and nothing damaged is ever read."""

import errno
import json
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from builders.processes import start
from petiole.engine.feature_store import FeatureCache, Key, checksum, clean, entries
from petiole.errors import CacheError

KEY = Key("f" * 64, "p" * 64, ("final.cls",))


def values(ids: list[str], seed: int = 0, width: int = 5) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {"final.cls": torch.randn(len(ids), width, generator=generator)}


def shards(root: Path, key: Key = KEY) -> list[Path]:
    return sorted((root / key.digest).glob("[!.]*.safetensors"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_values_come_back_to_the_bit(tmp_path: Path, dtype: torch.dtype) -> None:
    key = replace(KEY, cut=("final.cls", "final.patches"))
    state = {
        "final.cls": torch.randn(3, 4).to(dtype),
        "final.patches": torch.randn(3, 7, 4).to(dtype),
    }
    FeatureCache(tmp_path).write(key, ["b", "a", "c"], state)
    for cache in (FeatureCache(tmp_path), FeatureCache(tmp_path)):
        back = cache.read(key, ["c", "a", "absent"])
        assert sorted(back) == ["a", "c"]
        for image, row in (("c", 2), ("a", 1)):
            for role, value in state.items():
                assert back[image][role].dtype == dtype
                assert torch.equal(back[image][role], value[row])
    assert FeatureCache(tmp_path).missing(key, ["z", "a", "y", "z"]) == ["y", "z"]


@settings(max_examples=25, deadline=None)
@given(
    changes=st.lists(
        st.sampled_from(
            [
                ("fingerprint", "g"),
                ("preprocessing", "q"),
                ("cut", ("block.1.in",)),
                ("dtype", "float16"),
                ("precision", "bf16"),
                ("view", 1),
                ("augmentation", "a"),
            ]
        ),
        unique=True,
    )
)
def test_every_field_of_the_key_counts(changes: list[tuple[str, object]]) -> None:
    other = replace(KEY, **dict(changes))
    assert (other.digest == KEY.digest) == (not changes)
    assert replace(other).digest == other.digest


def test_keys_do_not_see_each_others_values(tmp_path: Path) -> None:
    cache, other = FeatureCache(tmp_path), replace(KEY, view=1)
    cache.write(KEY, ["a"], values(["a"]))
    assert cache.missing(other, ["a"]) == ["a"]
    assert cache.read(other, ["a"]) == {}


def test_rows_of_many_shards_and_keys_are_taken_in_any_order(tmp_path: Path) -> None:
    keys, cache = (KEY, replace(KEY, view=1)), FeatureCache(tmp_path)
    for key in keys:
        for part in range(4):
            state = {"final.cls": torch.randn(part + 1, 5, 2)}  # token maps
            cache.write(key, [f"{part}-{i}" for i in range(part + 1)], state)
    ids = [f"{part}-{i}" for i in range(4) for part in range(3, i - 1, -1)]
    one = [cache.read(key, ids)[image]["final.cls"] for key in keys for image in ids]
    chosen = torch.randint(len(one), (50,))
    for found in (cache, FeatureCache(tmp_path)):
        rows = found.rows(keys, ids)
        assert len(rows) == len(one) == 20
        taken = rows.take(chosen)["final.cls"]
        assert torch.equal(taken, torch.stack([one[i] for i in chosen.tolist()]))
        assert rows.take(chosen[:0])["final.cls"].shape == (0, 5, 2)


def test_a_write_does_not_hide_what_was_stored_before(tmp_path: Path) -> None:
    FeatureCache(tmp_path).write(KEY, ["a"], values(["a"]))
    fresh = FeatureCache(tmp_path)
    fresh.write(KEY, ["b"], values(["b"]))
    assert fresh.missing(KEY, ["a", "b"]) == []


WRITER = """
import sys, torch
from pathlib import Path
from petiole.engine.feature_store import FeatureCache, Key
cache, key = FeatureCache(Path(sys.argv[1])), Key("f" * 64, "p" * 64, ("final.cls",))
print("ready", flush=True)
sys.stdin.readline()
for part in range(12):
    generator = torch.Generator().manual_seed(part)
    ids = [f"{part}-{i}" for i in range(20)]
    cache.write(key, ids, {"final.cls": torch.randn(20, 5, generator=generator)})
"""


def test_two_writers_of_one_key_both_finish(tmp_path: Path) -> None:
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("go\n")
        writer.stdin.flush()
    for writer in writers:
        writer.communicate(timeout=120)
    assert [writer.returncode for writer in writers] == [0, 0]
    ids = [f"{part}-{i}" for part in range(12) for i in range(20)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        back = FeatureCache(tmp_path).read(KEY, ids)
    assert sorted(back) == sorted(ids)
    for part in range(12):
        want = values([f"{part}-{i}" for i in range(20)], seed=part)["final.cls"]
        assert all(torch.equal(back[f"{part}-{i}"]["final.cls"], want[i]) for i in range(20))
    assert not list((tmp_path / KEY.digest).glob(".tmp-*"))


KILLED = """
import os, signal, sys, torch
from pathlib import Path
from petiole.engine.feature_store import FeatureCache, Key
cache, key = FeatureCache(Path(sys.argv[1])), Key("f" * 64, "p" * 64, ("final.cls",))
cache.write(key, ["whole"], {"final.cls": torch.ones(1, 5)})
fsync, count = os.fsync, 0
def die(fd):
    os.kill(os.getpid(), signal.SIGKILL)
os.fsync = die
cache.write(key, ["half"], {"final.cls": torch.zeros(1, 5)})
"""


def test_a_killed_writer_leaves_nothing_that_is_read(tmp_path: Path) -> None:
    assert start(KILLED, tmp_path).wait() == -9
    folder = tmp_path / KEY.digest
    left = [p for p in folder.iterdir() if p.name.startswith(".tmp-")]
    assert len(left) == 1
    assert len(shards(tmp_path)) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert FeatureCache(tmp_path).missing(KEY, ["whole", "half"]) == ["half"]
    assert next(entries(tmp_path)).leftovers == 1

    assert clean(tmp_path) == 0, "a young temporary file may belong to a living writer"
    old = time.time() - 2 * 3600
    os.utime(left[0], (old, old))
    assert clean(tmp_path) == 1
    assert not left[0].exists()
    assert len(shards(tmp_path)) == 1


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 16
    path.write_bytes(content)


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _garbage_header(path: Path) -> None:
    path.write_bytes(b"\xff" * 8 + path.read_bytes()[8:])


def _no_metadata(path: Path) -> None:
    save_file({"final.cls": torch.zeros(2, 5)}, path)


def _named_rightly(path: Path, ids: list[str], state: dict[str, torch.Tensor]) -> None:
    path.unlink()
    right = path.with_name(checksum(ids, state) + ".safetensors")
    save_file(state, right, {"ids": json.dumps(ids)})


def _fewer_rows(path: Path) -> None:
    _named_rightly(path, ["a", "b"], {"final.cls": torch.zeros(1, 5)})


def _other_role(path: Path) -> None:
    _named_rightly(path, ["a", "b"], {"final.patches": torch.zeros(2, 5)})


def _ids_not_a_list(path: Path) -> None:
    save_file({"final.cls": torch.zeros(2, 5)}, path, {"ids": "7"})


def _of_another_key(path: Path) -> None:
    other = replace(KEY, fingerprint="another")
    FeatureCache(path.parents[1]).write(other, ["a", "b"], values(["a", "b"], seed=5))
    path.unlink()
    (moved,) = (path.parents[1] / other.digest).glob("*.safetensors")
    moved.rename(path.with_name(moved.name))


DAMAGES = [
    _of_another_key,
    _truncate,
    _flip,
    _empty,
    _garbage_header,
    _no_metadata,
    _fewer_rows,
    _other_role,
    _ids_not_a_list,
]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda f: f.__name__.strip("_"))
def test_a_damaged_shard_is_set_aside_and_computed_again(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    ids, good = ["a", "b"], values(["a", "b"])
    FeatureCache(tmp_path).write(KEY, ids, good)
    FeatureCache(tmp_path).write(KEY, ["c"], values(["c"], seed=1))
    before = set(shards(tmp_path))
    victim = tmp_path / KEY.digest / (checksum(ids, good) + ".safetensors")
    assert victim in before
    damage(victim)
    (bad,) = set(shards(tmp_path)) - (before - {victim})

    cache = FeatureCache(tmp_path)
    with pytest.warns(UserWarning, match=bad.stem + ".corrupt"):
        assert cache.missing(KEY, ["a", "b", "c"]) == ["a", "b"]
    assert bad.with_suffix(".corrupt").exists()
    assert not bad.exists()

    cache.write(KEY, ids, good)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        back = FeatureCache(tmp_path).read(KEY, ids)
    assert torch.equal(torch.stack([back[i]["final.cls"] for i in ids]), good["final.cls"])
    assert clean(tmp_path) == 1
    assert not bad.with_suffix(".corrupt").exists()


def test_listing_and_verifying_count_the_damage(tmp_path: Path) -> None:
    FeatureCache(tmp_path).write(KEY, ["a", "b"], values(["a", "b"]))
    (shelf,) = entries(tmp_path, verify=True)
    assert (shelf.images, shelf.damaged, shelf.key["cut"]) == (2, 0, ["final.cls"])
    _flip(shards(tmp_path)[0])
    assert next(entries(tmp_path)).damaged == 0, "listing reads headers only"
    assert next(entries(tmp_path, verify=True)).damaged == 1
    assert clean(tmp_path) == 1
    assert shards(tmp_path) == []
    file = tmp_path / KEY.digest / "key.json"
    for damaged in ("{", file.read_text().replace("final.cls", "final.map"), "[" * 100_000):
        file.write_text(damaged)
        assert next(entries(tmp_path)).key == {}  # the folder's name is the digest of the key


def test_clearing_touches_no_folder_but_its_own(tmp_path: Path) -> None:
    FeatureCache(tmp_path).write(KEY, ["a"], values(["a"]))
    mine = tmp_path / "holiday" / "key.json"
    mine.parent.mkdir()
    mine.write_text("{}")
    assert clean(tmp_path, everything=True) == 2
    assert list(tmp_path.iterdir()) == [mine.parent]
    assert mine.exists()


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)]
    try:
        done = subprocess.run(mount, capture_output=True, timeout=30)
    except OSError:
        pytest.skip("no mount command here")
    if done.returncode:
        pytest.skip("a small file system can be mounted by root only")
    yield place
    subprocess.run(["umount", str(place)], check=True, timeout=30)


def test_a_full_disk_is_explained_and_leaves_nothing_partial(full_disk: Path) -> None:
    cache = FeatureCache(full_disk)
    cache.write(KEY, ["small"], values(["small"]))
    ids = [f"{i}" for i in range(1000)]
    with pytest.raises(CacheError) as caught:
        cache.write(KEY, ids, values(ids, width=1000))
    text = str(caught.value)
    assert str(full_disk / KEY.digest) in text
    assert "4.0 MB" in text
    assert "the disk is full" in text
    for remedy in ("petiole cache clean", "--cache-dir", "--no-cache"):
        assert remedy in text
    assert not list((full_disk / KEY.digest).glob(".tmp-*"))
    assert len(shards(full_disk)) == 1
    assert FeatureCache(full_disk).missing(KEY, ["small", "1"]) == ["1"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES, errno.EROFS])
def test_whatever_the_disk_refuses_is_a_cache_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refuse(_: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(CacheError, match="--cache-dir") as caught:
        FeatureCache(tmp_path).write(KEY, ["a"], values(["a"]))
    assert ("disk is full" in str(caught.value)) == (code == errno.ENOSPC)
    assert list((tmp_path / KEY.digest).iterdir()) == []


def test_a_cache_below_a_file_is_a_cache_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CacheError, match="--no-cache"):
        FeatureCache(tmp_path / "file").write(KEY, ["a"], values(["a"]))
