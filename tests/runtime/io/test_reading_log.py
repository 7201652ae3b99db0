"""A photo that kills its decoder is left out the next time; one that was only there when a process died is not."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import runtime.addition
import runtime.io.reading_log
from runtime import Retriever
from runtime.io.reading_log import ReadingLog, kills_its_decoder, left_behind

pytest.importorskip("fcntl", reason="needs fcntl, which Windows has not")

# A process that dies while it decodes two photos.
DIE = """
import os, sys
from pathlib import Path
from runtime.io.reading_log import ReadingLog
with ReadingLog(Path(sys.argv[1])) as log, log.reading("before"):
    pass
with ReadingLog(Path(sys.argv[1])) as log, log.reading("done"):
    with log.reading("a.jpg"), log.reading("b.jpg"):
        os._exit(9)
"""


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return tmp_path / "x.index.reading"


def die(base: Path) -> None:
    assert subprocess.run([sys.executable, "-c", DIE, str(base)]).returncode == 9


def names(base: Path) -> set[str]:
    with left_behind(base) as found:
        return found


def names_where_the_block_fails(base: Path) -> set[str]:
    try:
        with left_behind(base) as found:
            raise KeyError
    except KeyError:
        return found


def test_what_a_process_decoded_when_it_died_is_known_until_it_was_dealt_with(base: Path) -> None:
    die(base)
    assert names_where_the_block_fails(base) == {"done", "a.jpg", "b.jpg"}
    assert names(base) == {"done", "a.jpg", "b.jpg"}
    assert names(base) == set()
    assert list(base.parent.iterdir()) == []


def test_the_log_of_a_living_process_is_left_alone(base: Path) -> None:
    with ReadingLog(base) as log:
        with log.reading("a.jpg"):
            assert names(base) == set()
        log.keep("killer.jpg")
    assert names(base) == {"killer.jpg"}


def test_a_log_that_is_no_log_says_nothing(base: Path) -> None:
    base.with_name(f"{base.name}.1").write_bytes(os.urandom(20_000))
    base.with_name(f"{base.name}.2").touch()
    assert names(base) == set()


def test_without_room_for_a_log_all_goes_on(tmp_path: Path) -> None:
    with ReadingLog(tmp_path / "no folder" / "x") as log, log.reading("a.jpg"):
        log.keep("b.jpg")


def test_only_what_kills_is_a_killer(photos: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert not kills_its_decoder(Path(photos[0]).read_bytes(), 10_000_000)
    assert not kills_its_decoder(b"no photo", 10_000_000)
    monkeypatch.setattr(runtime.io.reading_log, "DECODE", "import os; os.abort()")
    assert kills_its_decoder(b"any", 10_000_000)
    monkeypatch.setattr(runtime.io.reading_log, "DECODE", "import time; time.sleep(60)")
    monkeypatch.setattr(runtime.io.reading_log, "PATIENCE", 0.1)
    assert kills_its_decoder(b"any", 10_000_000)


def test_a_photo_that_killed_is_left_out_named_and_remembered(
    exported: Path, photos: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime.addition, "kills_its_decoder", lambda data, _: data == Path(photos[1]).read_bytes())
    script = DIE.replace("a.jpg", photos[0]).replace("b.jpg", photos[1])
    assert subprocess.run([sys.executable, "-c", script, str(tmp_path / "idx.reading")]).returncode == 9
    for _ in range(2):  # it is still known the time after the next
        with Retriever(exported / "engine.onnx", tmp_path / "idx", device="cpu") as retriever:
            report = retriever.add(photos[:3], existing="skip")
            assert retriever.ids() == [photos[0], photos[2]]
            assert report.skipped == {
                photos[1]: f"{photos[1]}: decoding it ends the process; save it in another format"
            }
    monkeypatch.setattr(runtime.addition, "kills_its_decoder", lambda *_: False)
    with Retriever(exported / "engine.onnx", tmp_path / "idx", device="cpu") as retriever:
        assert retriever.add(photos[:3], existing="skip").added == [photos[1]]
    assert list(tmp_path.iterdir()) == [tmp_path / "idx"]
