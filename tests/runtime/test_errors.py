"""An error is one line, whatever it quotes."""

import pickle

import pytest

from runtime.errors import MAX_LENGTH, HowlError, ImageError


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ("a\nb.jpg: no such file", "a\\nb.jpg: no such file"),
        ("\x1b[31mred\x00", "\\x1b[31mred\\x00"),
        ("caf\udce9.jpg", "caf\\udce9.jpg"),
        ("Zürich → 100 €", "Zürich → 100 €"),
        ("", ""),
    ],
)
def test_what_no_terminal_should_get_is_escaped(given: str, line: str) -> None:
    assert str(ImageError(given)) == line


def test_an_endless_name_is_cut_in_the_middle() -> None:
    line = str(HowlError("begin" + "x" * 100_000 + "end"))
    assert len(line) < MAX_LENGTH + 10
    assert (line[:5], line[-3:]) == ("begin", "end")


def test_errors_travel_between_processes() -> None:
    copy = pickle.loads(pickle.dumps(ImageError("a\nb")))
    assert (type(copy), str(copy)) == (ImageError, "a\\nb")
