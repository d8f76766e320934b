"""Killed at every event of its files, and at random moments, work goes on to the result that it has undisturbed."""

from __future__ import annotations

import errno
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch

from builders.faults import EACH, SECONDS, Fault, counted, forked, share
from builders.interrupted import EFFICIENTNET, JOBS, Job, comparison, image, image_task, left
from petiole.engine import executor
from petiole.engine.feature_store import FeatureCache, Key, entries

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks, and looks at /proc")

SHARES = {"image": (420, 2), "language": (180, 1), "codebook": (180, 0)} | {
    "features": (120, 2), "page": (40, 0), "comparison": (100, 0),
}  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("faults")


@pytest.mark.parametrize("make", JOBS, ids=lambda make: make.__name__)
def test_a_killed_job_goes_on_to_the_same_files(
    make: Callable[[Path], Job], home: Path, tmp_path: Path
) -> None:
    kills = share(*SHARES[make.__name__])
    if not kills:
        pytest.skip("only in `make faults`")
    job, rng, whole = make(home), random.Random(0), tmp_path / "whole"
    job.do(whole)
    wanted = job.result(whole)
    begun = time.perf_counter()
    done = forked(lambda: job.do(tmp_path / "again"), tmp_path / "again")
    seconds, events = time.perf_counter() - begun, done.events
    assert (done.kind, job.result(tmp_path / "again")) == ("done", wanted), done.value
    counts, places = counted(f"kills: {job.name}"), list(range(1, events + 1))
    rng.shuffle(places)
    folder, number = tmp_path / "0", 0
    ends = time.monotonic() + SECONDS
    while counts["kills"] < kills and time.monotonic() < ends:
        fault = Fault(at=places.pop()) if places else Fault(seconds=rng.uniform(0.01, seconds))
        outcome = forked(lambda f=folder: job.do(f), folder, fault)  # type: ignore[misc]
        assert outcome.kind in ("killed", "done"), outcome.value
        counts["kills"] += outcome.kind == "killed"
        if outcome.kind == "done" or rng.random() < 0.4 or counts["kills"] == kills:
            job.do(folder)  # else it is killed once more
            assert job.result(folder) == wanted
            counts["equal results"] += 1
            shutil.rmtree(folder)
            folder, number = tmp_path / str(number + 1), number + 1
    if folder.exists():  # time is up
        job.do(folder)
        assert job.result(folder) == wanted
    assert counts["equal results"]
    counts["wrong"] += 0


def kept_of(failed: tuple[str, ...]) -> str:
    """What failed, without what is drawn by chance in temporary names."""
    return ", ".join(re.sub(r"[0-9a-f_]{8,}|\d+", "N", one) for one in dict.fromkeys(failed))


@pytest.mark.parametrize("make", [image, *([] if not EACH else JOBS[1:])], ids=lambda m: m.__name__)
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS][: 2 if EACH else 1])
@pytest.mark.filterwarnings("ignore:No checkpoint")
def test_a_disk_that_is_full_is_said_and_costs_no_result(
    make: Callable[[Path], Job], number: int, home: Path, tmp_path: Path
) -> None:
    job = make(home)
    job.do(tmp_path / "whole")
    wanted = job.result(tmp_path / "whole")
    again = tmp_path / "again"
    events = forked(lambda: job.do(again), again, Fault(errno=number)).events
    counts = counted(f"{errno.errorcode[number]}: {job.name}")
    places, ends = list(range(1, events + 1)), time.monotonic() + SECONDS
    random.Random(0).shuffle(places)
    for at in places if EACH >= 1 else places[: share(12, 2)]:
        if time.monotonic() > ends:
            break
        folder = tmp_path / str(at)
        outcome = forked(lambda f=folder: job.do(f), folder, Fault(at, number))  # type: ignore[misc]
        assert outcome.kind in ("refused", "done"), outcome.value
        assert outcome.failed, "nothing changed a file from there on"
        counts["refused" if outcome.kind == "refused" else "went on"] += 1
        if outcome.kind == "done":  # which of its changes the work could do without
            counted(f"{errno.errorcode[number]}, went on: {job.name}")[kept_of(outcome.failed)] += 1
        job.do(folder)
        assert job.result(folder) == wanted
        counts["equal results"] += 1
        shutil.rmtree(folder)
    counts["wrong"] += 0


def test_eight_writers_of_one_cache(tmp_path: Path) -> None:
    """Five write the same images in other orders, three are killed on the way."""
    key, names = Key("f", "p", ("vector",)), [f"{i:064x}" for i in range(40)]

    def value(name: str) -> torch.Tensor:
        return torch.full((3,), float(int(name, 16)))

    def write(seed: int) -> None:
        cache, order = FeatureCache(tmp_path), random.Random(seed).sample(names, len(names))
        for start in range(0, 40, 4):
            shard = order[start : start + 4]
            missing = cache.missing(key, shard) or shard[:1]
            cache.write(key, missing, {"vector": torch.stack([value(n) for n in missing])})

    rounds = share(60, 1)
    for turn in range(rounds):
        children = []
        for seed in range(8):
            child = os.fork()
            if not child:
                kill = Fault(at=5 + 7 * seed) if seed > 4 else Fault()
                outcome = forked(lambda s=8 * turn + seed: write(s), tmp_path, kill)  # type: ignore[misc]
                os._exit(outcome.kind != ("killed" if seed > 4 else "done"))
            children.append(child)
        assert [os.waitpid(child, 0)[1] for child in children] == [0] * 8
    rows = FeatureCache(tmp_path).read(key, names)
    assert all(torch.equal(rows[name]["vector"], value(name)) for name in names)
    assert [entry.damaged for entry in entries(tmp_path, verify=True)] == [0]
    counts = counted("8 writers of one cache")
    counts["kills"] += 3 * rounds
    counts["equal results"] += rounds
    counts["wrong"] += 0


def in_session(number: int) -> list[int]:
    """Processes of a session that are no zombies."""
    found = []
    for file in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, _, _, session = file.read_text().rpartition(")")[2].split()[:4]
            if int(session) == number and state != "Z":
                found.append(int(file.parent.name))
    return found


def quietly(work: Callable[[], object]) -> None:
    """Do it in a fork that ends with it."""
    try:
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        work()
    finally:
        os._exit(0)


def killed_after(seconds: float, child: int) -> bool:
    """Kill the leader of a session, and wait until nothing of the session is left; whether it was still at work."""
    ended, done, status = time.monotonic() + seconds, 0, 0
    while not done and time.monotonic() < ended:
        done, status = os.waitpid(child, os.WNOHANG)
        time.sleep(0.005)
    if not done:
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
    ended = time.monotonic() + 20
    while in_session(child) and time.monotonic() < ended:
        time.sleep(0.02)
    assert not in_session(child), "a worker outlived the command"
    return os.WIFSIGNALED(status)


@pytest.mark.skipif(
    EACH < 0.05, reason="only in `make faults`: some of it starts Python again and again"
)
def test_two_processes_of_a_comparison_end_with_the_one_that_started_them(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forks of this process, which costs no loading, and now and then the command itself."""
    monkeypatch.setattr(executor, "get_context", lambda _: get_context("fork"))
    job, task, rng = comparison(home, processes=2), image_task(home), random.Random(0)
    command = [
        *(sys.executable, "-m", "petiole", "compare", str(task.images), "--source", str(task.source)),
        *("--methods", "cosine", "--split-seeds", "1", "--shots", "2", "--set", "steps=2"),
        *("--backbone", EFFICIENTNET, "--image-size", "32", "--cache-dir", str(task.cache)),
        *("--processes", "2", "--quiet", "--resume", "--out"),
    ]  # fmt: skip
    begun = time.perf_counter()
    outcome = forked(lambda: job.do(tmp_path / "whole"), tmp_path / "whole")
    seconds = time.perf_counter() - begun
    assert outcome.kind == "done", outcome.value
    wanted, ends = left(tmp_path / "whole"), time.monotonic() + SECONDS
    for turn in range(share(110, 1)):
        if time.monotonic() > ends:
            break
        folder, by_command = tmp_path / str(turn), turn % 25 == 24
        counts = counted(
            f"kills: compare --processes 2, {'by command' if by_command else 'forked'}"
        )
        child = os.fork()
        if not child:
            os.setsid()
            if by_command:
                os.execv(sys.executable, [*command, str(folder)])
            quietly(lambda f=folder: job.do(f))  # type: ignore[misc]
        begun = time.perf_counter()
        killed = killed_after(rng.uniform(0, 12 if by_command else seconds), child)
        counts["kills"] += killed
        if not (killed or by_command):  # the first one also computed the features
            seconds = min(seconds, time.perf_counter() - begun)
        if by_command:
            # config.toml tells how it was called: a command gives lists where Python gave one place.
            whole = tmp_path / "by command"
            for place in (folder, *([] if whole.exists() else [whole])):
                subprocess.run([*command, str(place)], check=True, capture_output=True)
        else:
            outcome = forked(lambda f=folder: job.do(f), folder)  # type: ignore[misc]
            assert outcome.kind == "done", outcome.value
        assert left(folder) == (left(whole) if by_command else wanted)
        counts["equal results"] += 1
        counts["wrong"] += 0
        shutil.rmtree(folder)
