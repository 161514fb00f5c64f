"""Machine code on disk: what a process loads is what was saved for it, whoever else saves or is killed meanwhile."""

import multiprocessing
from pathlib import Path

import pytest

from normtree_kernels.code_cache import CodeCacheFile

ROUNDS = 40


def code_file(folder: Path, stamp: str = "sources") -> CodeCacheFile:
    return CodeCacheFile(str(folder), "kernel", stamp)


def save_and_load(folder: Path, worker: int) -> None:
    for round_ in range(ROUNDS):
        key = (worker, round_)
        code_file(folder).save(key, {"code": key})
        assert code_file(folder).load(key) == {"code": key}


def test_processes_that_save_at_once_lose_and_mix_up_nothing(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=save_and_load, args=(tmp_path, worker)) for worker in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    for worker in range(3):
        for round_ in range(ROUNDS):
            assert code_file(tmp_path).load((worker, round_)) == {"code": (worker, round_)}


def test_a_save_that_is_cut_short_leaves_nothing_to_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code_file(tmp_path, "older sources").save("float32", "older code")
    cut = code_file(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(CodeCacheFile, "_save_index", lambda *_: (_ for _ in ()).throw(OSError("killed here")))
        with pytest.raises(OSError, match="killed here"):
            cut.save("float64", "new code")
    assert cut.load("float32") is None
    assert cut.load("float64") is None


def test_other_sources_code_is_not_loaded(tmp_path: Path) -> None:
    code_file(tmp_path, "older sources").save("float32", "older code")
    assert code_file(tmp_path).load("float32") is None
    code_file(tmp_path).save("float32", "new code")
    assert code_file(tmp_path).load("float32") == "new code"


def test_a_folder_that_cannot_be_written_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code_file(tmp_path).save("float32", "code")
    monkeypatch.setattr("os.open", lambda *_: (_ for _ in ()).throw(PermissionError("read-only")))
    assert code_file(tmp_path).load("float32") == "code"
