"""Plain pickles are read; all others are refused before anything in them runs."""

import os
import pickle
import re
import shutil
from collections import Counter, OrderedDict
from contextlib import suppress
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime.errors import HowlError
from runtime.io.unpickle import load_plain_pickle


def written(folder: Path, content: bytes) -> Path:
    path = folder / "gnd_places.pkl"
    path.write_bytes(content)
    return path


def refusal(path: Path) -> str:
    """What the one line says after the path."""
    with pytest.raises(HowlError) as caught:
        load_plain_pickle(path)
    line = str(caught.value)
    assert line.startswith(f"{path}: ")
    assert "\n" not in line
    return line.removeprefix(f"{path}: ")


def assert_same(found: Any, expected: Any) -> None:
    if isinstance(expected, np.ndarray):
        np.testing.assert_array_equal(found, expected)
        assert found.dtype == expected.dtype
    elif isinstance(expected, dict):
        assert list(found) == list(expected)
        for key, value in expected.items():
            assert_same(found[key], value)
    else:
        assert found == expected
        assert type(found) is type(expected)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_and_containers_come_back_as_they_were(tmp_path: Path, protocol: int) -> None:
    data = {
        "imlist": ["all_souls_000013", "ünïcode/写真"],
        "gnd": [{"bbx": [136.5, 34.1, 648.5, 955.7], "easy": [1, 2], "none": None, "yes": True}],
        "set": {1, 2},
        "tuple": (1, 2.5),
        "ordered": OrderedDict(b=1, a=2),
        "bytes": b"\x00\xff",
        "float32": np.arange(6, dtype=np.float32).reshape(2, 3),
        "int64": np.array([[1], [2]]),
        "text": np.array(["a", "bcd"]),
        "in columns": np.asfortranarray(np.arange(6).reshape(2, 3)),
        "empty": np.empty((0, 4), np.float64),
        "scalar": np.float64(0.25),
    }
    assert_same(load_plain_pickle(written(tmp_path, pickle.dumps(data, protocol))), data)


@pytest.mark.parametrize("module", [b"numpy.core.multiarray", b"numpy._core.multiarray"], ids=["NumPy 1", "NumPy 2"])
def test_arrays_are_read_under_both_of_numpys_names(tmp_path: Path, module: bytes) -> None:
    array = np.arange(5, dtype=np.float32)
    content = pickle.dumps([array, np.int64(7)], protocol=2)
    renamed = re.sub(rb"numpy\._?core\.multiarray", module, content)
    assert renamed.count(module) == 2  # _reconstruct and scalar
    found, seven = load_plain_pickle(written(tmp_path, renamed))
    np.testing.assert_array_equal(found, array)
    assert seven == 7


def test_a_pickle_of_python_2_is_read(tmp_path: Path) -> None:
    """Its strings are bytes, an array's raw data among them, and its sets come from `__builtin__`."""
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntU\x01btR(I1\n(I2\nt"
        b"cnumpy\ndtype\n(U\x02i4I0\nI1\ntR(I3\nU\x01<NNNI-1\nI-1\nI0\ntbI00\nU\x08\x01\x00\x00\x00\xff\x00\x00\x00tb"
    )
    found = load_plain_pickle(
        written(tmp_path, b"\x80\x02}(U\x04nameU\x03abcU\x03arr" + array + b"U\x03setc__builtin__\nset\n(]K\x01atRu.")
    )
    assert found["name"] == "abc"
    assert found["set"] == {1}
    np.testing.assert_array_equal(found["arr"], [1, 255])


class Runs:
    """An object whose pickle, when loaded, calls a function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple:
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: {"a": [np.arange(3), x]}], ids=["alone", "deep inside"])
@pytest.mark.parametrize(
    ("function", "name"),
    [(os.mkdir, "mkdir"), (os.system, "system"), (eval, "eval"), (shutil.copy, "copy"), (getattr, "getattr")],
)
def test_a_pickle_that_would_run_code_is_refused_and_runs_nothing(
    tmp_path: Path, function: Any, name: str, wrap: Any, protocol: int
) -> None:
    victim = tmp_path / "victim"
    arguments = {
        "mkdir": [str(victim)],
        "system": [f"mkdir {victim}"],
        "eval": [f"__import__('os').mkdir({str(victim)!r})"],
        "copy": [__file__, str(victim)],
        "getattr": ["text", "upper"],
    }[name]
    path = written(tmp_path, pickle.dumps(wrap(Runs(function, *arguments)), protocol))
    line = refusal(path)
    assert f".{name}; only plain arrays and containers are read" in line
    assert not victim.exists()


def test_the_same_pickle_does_run_code_for_an_ordinary_unpickler(tmp_path: Path) -> None:
    """Else the test above would prove nothing."""
    victim = tmp_path / "victim"
    pickle.loads(pickle.dumps(Runs(os.mkdir, str(victim))))
    assert victim.exists()


@pytest.mark.parametrize(
    ("value", "named"),
    [
        (date(2024, 1, 1), "datetime.date"),
        (Counter("aab"), "collections.Counter"),
        (np.random.default_rng, "numpy.random"),
        (np.load, "asks for numpy.load"),
        (np.array([{}], object), "array of object"),
        (np.array(["2024-01-01"], "datetime64[D]"), "array of datetime64"),
        (np.zeros(2, [("a", int)]), "array of"),
    ],
)
def test_anything_but_plain_data_is_refused_by_name(tmp_path: Path, value: Any, named: str) -> None:
    assert named in refusal(written(tmp_path, pickle.dumps(value)))


def test_an_array_of_objects_shorter_than_it_says_cannot_crash_the_process(tmp_path: Path) -> None:
    content = pickle.dumps(np.array(["x", None], object), protocol=2)
    assert content.count(b"K\x02\x85") == 1  # its shape, (2,)
    assert "array of object" in refusal(written(tmp_path, content.replace(b"K\x02\x85", b"K\xf0\x85")))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"hello",
        b"<html>404 Not Found</html>",
        pickle.dumps(list(range(1000)))[:-20],
        b"cnumpy\nnothing_of_that_name\n.",
        b"cno_such_module\nname\n.",
        b"\x80\xff.",
        b"c_codecs\nencode\n(Vx\nVno-such-codec\ntR.",
        b"\x80\x02c_codecs\nencode\n(K\x01K\x02tR.",
        b"cbuiltins\nset\n(I1\ntR.",
        b"cmodule\rwith\x0bodd\nname\n.",
    ],
    ids=["empty", "text", "html", "truncated", "no attribute", "no module", "protocol", "codec", "types", "set", "odd"],
)
def test_a_damaged_file_is_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    refusal(written(tmp_path, content))


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    assert refusal(tmp_path / "nothing.pkl").endswith("no such file")
    refusal(tmp_path)


# ------------------------------------------------------------------------------------------------- hostile pickles


def nested(pairs: int) -> Any:
    """A tuple of two equal tuples, and so on: 2ⁿ parts in n of them."""
    value: Any = ()
    for _ in range(pairs):
        value = (value, value)
    return value


ARRAY = b"cnumpy\nndarray\n"
DTYPE = b"cnumpy\ndtype\n(S'f8'\nI0\nI1\ntR"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (ARRAY + b"((I1\ntS'O'\nC\x08AAAAAAAAtR.", "it calls what is no function of plain data"),
        (ARRAY + b"((I1\ntS'f8'\ntR.", "it calls what is no function of plain data"),
        (ARRAY + b"}S'__array_priority__'\nI1\nsb.", "it changes a object"),
        (b"cnumpy.core.multiarray\nscalar\n}S'x'\nI1\nsb.", "it changes a AllowedCall"),
        (b"c_codecs\nencode\n(N}S'__defaults__'\n(I1\ntstb.", "it changes a AllowedCall"),
        (b"cbuiltins\nset\n}S'x'\nI1\nsb.", "it changes a AllowedCall"),
        (DTYPE + b"(I3\nS'<'\nNNNI1000000\nI8\nI0\ntb.", "it holds something that is no value"),
        (b"cnumpy\ndtype\n(S'O'\ntR.", "array of object"),
        (b"cnumpy\ndtype\n(S'M8[D]'\ntR.", "array of datetime64"),
        (b"cnumpy\ndtype\n(S'f8,f8'\ntR.", "array of"),
        (b"cnumpy\ndtype\n(S'V8'\ntR.", "array of"),
        (b"cnumpy.core.multiarray\n_reconstruct\n(" + ARRAY + b"(I0\ntC\x01btR.", "an array without its bytes"),
        (b"\x80\x02cbuiltins\nset\n)\x81.", "instruction"),
        (b"\x80\x02I1\nr\xff\xff\xff\x0f.", "it counts beyond its size"),
        (b"Q.", "instruction"),
        (b"I1\nI2\na.", "it fills a int"),
        (b"\x80\x02}" + pickle.dumps(nested(40), 2)[2:-1] + b"K\x01s.", "a key that is a tuple"),
        (pickle.dumps({frozenset({1})}), "instruction"),
        (pickle.dumps([nested(40)]), "too deep, or refers to the same parts too often"),
        (b"(l" * 200 + b"a" * 199 + b".", "too deep"),
    ],
)
def test_a_hostile_pickle_is_refused_in_one_short_line(tmp_path: Path, content: bytes, words: str) -> None:
    line = refusal(written(tmp_path, content))
    assert words in line
    assert len(line) < 400


def test_parts_may_be_referred_to_within_reason(tmp_path: Path) -> None:
    assert load_plain_pickle(written(tmp_path, pickle.dumps(nested(10)))) == nested(10)


def test_a_list_that_holds_itself_is_refused(tmp_path: Path) -> None:
    itself: list = []
    itself.append(itself)
    assert "too deep" in refusal(written(tmp_path, pickle.dumps(itself)))


def test_an_array_has_the_bytes_that_its_shape_needs(tmp_path: Path) -> None:
    content = pickle.dumps(np.arange(4, dtype=np.int32), protocol=2)
    assert content.count(b"K\x04\x85") == 1  # its shape, (4,)
    for wrong in (b"K\x05\x85", b"K\x03\x85", b"J\xff\xff\xff\x7f\x85", b"J\xff\xff\xff\xff\x85"):
        assert "it holds an array" in refusal(written(tmp_path, content.replace(b"K\x04\x85", wrong)))


def test_arrays_are_new_and_can_be_written(tmp_path: Path) -> None:
    one = np.arange(3)
    first, second = load_plain_pickle(written(tmp_path, pickle.dumps([one, one])))
    first[:] = 9
    assert second.tolist() == [0, 1, 2]


def test_whatever_is_changed_in_a_pickle_ends_in_plain_data_or_in_an_error(tmp_path: Path) -> None:
    data = {"ids": ["a", "b"], "x": np.arange(6.0).reshape(2, 3), "n": np.int64(3), "s": {1}, "t": np.array(["u"])}
    random = np.random.default_rng(0)
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        content = pickle.dumps(data, protocol)
        for _ in range(60):
            changed = bytearray(content)
            for at in random.integers(0, len(changed), random.integers(1, 5)):
                changed[at] = random.integers(256)
            with suppress(HowlError):
                load_plain_pickle(written(tmp_path, bytes(changed)))
