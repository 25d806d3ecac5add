"""Two processes that write into one folder wait for each other, or leave each other alone; what a killed one
left is removed.
"""

from __future__ import annotations

import errno
import threading

import pytest

from engine import lock

pytest.importorskip("fcntl")


def test_what_a_killed_process_was_writing_is_removed_and_nothing_else(tmp_path):
    left = {".curves.pdf.abcdefgh.part", ".table.md.__3rkq12.part", ".x.12345678.part"}
    others = {"table.part", ".part", ".hidden", "net.pt.0123456789ab.part", ".short.abc.part"}
    for name in left | others:
        (tmp_path / name).touch()
    with lock.sole_writer(tmp_path):
        assert {path.name for path in tmp_path.iterdir()} == others


def test_what_another_one_is_writing_now_stays_until_it_is_done(tmp_path):
    events = []

    def second() -> None:
        with lock.sole_writer(tmp_path):
            events.append("second")

    with lock.sole_writer(tmp_path):
        part = tmp_path / ".curves.pdf.abcdefgh.part"
        part.touch()
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(timeout=0.5)
        assert part.exists() and thread.is_alive()
        events.append("first")
    thread.join(timeout=10)
    assert events == ["first", "second"] and not part.exists()


def test_nobody_is_waited_for_without_end(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "WAITING", 0.3)
    with lock.sole_writer(tmp_path), lock.sole_writer(tmp_path):
        pass


def test_a_folder_that_is_not_there_is_the_writers_to_make(tmp_path):
    with lock.sole_writer(tmp_path / "nowhere"):
        assert not (tmp_path / "nowhere").exists()


def test_of_several_writers_the_first_removes_what_was_left_of_its_own_files(tmp_path):
    left = {".0000_mask.png.abcdefgh.part", f".{'n' * 40}.12345678.part"}
    others = {".notes.txt.abcdefgh.part", "0000_mask.png", ".0000_mask.png.short.part"}
    names = ["0000_mask.png", "n" * 60]
    for name in left | others:
        (tmp_path / name).touch()
    with lock.one_of_several_writers(tmp_path, names):
        assert {path.name for path in tmp_path.iterdir()} == others
        part = tmp_path / ".0000_mask.png.ABCDEFGH.part"
        part.touch()
        with lock.one_of_several_writers(tmp_path, names):  # nobody waits, and what is being written stays
            assert part.exists()


def test_without_locks_several_writers_touch_nothing_of_each_other(tmp_path, monkeypatch):
    import fcntl

    def flock(descriptor: int, how: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    part = tmp_path / ".0000_mask.png.abcdefgh.part"
    part.touch()
    with lock.one_of_several_writers(tmp_path, ["0000_mask.png"]):
        assert part.exists()
