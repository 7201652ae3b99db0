"""Truncates the files of an open index and searches on: imported by processes of `test_disk.py`, which might die of it.

The files have several pages, however large a page is: only a page that is gone as a whole is noticed.
"""

import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from index_images import TABLE, D, attempt, folders, refusal

from runtime.asmk.codes import AsmkCodes, AsmkQuery, pack_signs
from runtime.first_stage import ASMK, VECTORS, Layout
from runtime.index import Index
from runtime.index.segment import IMAGE_FILES, store_of

WORDS, G = 1000, 64


def make_asmk(path: Path) -> tuple[Index, AsmkQuery]:
    """An index, and a query that has all of its words."""
    random = np.random.default_rng(0)
    signs = pack_signs(random.normal(size=(WORDS, D)))
    words = [np.flatnonzero(random.random(WORDS) < 0.5).astype(np.uint32) for _ in range(300)]
    index = Index.create(path, fingerprint="an engine", layout=Layout(ASMK, D))
    index.add([f"image{i}" for i in range(300)], [AsmkCodes(some, signs[some]) for some in words])
    return index, AsmkQuery(np.arange(WORDS, dtype=np.uint32), signs, None, TABLE)


def make_vectors(path: Path) -> tuple[Index, Any]:
    """An index, and a query; every query reads all vectors."""
    vectors = np.random.default_rng(0).normal(size=(3000, G)).astype(np.float16)
    index = Index.create(path, fingerprint="an engine", layout=Layout(VECTORS, G))
    index.add([f"image{i}" for i in range(len(vectors))], list(vectors))
    return index, vectors[7].astype(np.float32)


MAKE: dict[str, Callable[[Path], tuple[Index, Any]]] = {ASMK: make_asmk, VECTORS: make_vectors}


def lose_large_files(path: Path, method: str) -> None:
    """Truncates each large file of a copy of an index; another one is searched in between."""
    whole, query = MAKE[method](path / "whole")
    whole.remove(["image0"])  # so that there is something to compact
    expected = whole.search(query, 10)
    for name in store_of(whole.layout).large_files(whole.layout):
        for kept in (0, 0.5):
            index = Index(Path(shutil.copytree(whole.path, path / f"{name} {kept}")))
            assert index.search(query, 10) == expected
            (folder,) = folders(index.path)
            file = index.path / folder / name
            content = file.read_bytes()
            os.truncate(file, int(kept * len(content)))
            check_refusals(index, query, f"{file.parent}: damaged (a file was truncated")
            with ThreadPoolExecutor(4) as threads:
                refused = [threads.submit(check_refusals, index, query, f"{file.parent}: ") for _ in range(8)]
                found = [threads.submit(whole.search, query, 10) for _ in range(8)]
            assert [done.result() for done in found] == [expected] * 8
            assert not any(done.result() for done in refused)
            assert [line.startswith(f"{file}: damaged (") for line in index.verify()] == [True]
            assert refusal(index.compact).startswith(f"{file}: damaged (")
            file.write_bytes(content)
            assert index.search(query, 10) == expected


def check_refusals(index: Index, query: Any, beginning: str) -> None:
    (segment,) = (segment for segment, _ in index.parts())
    searches = [lambda: index.search(query, 10), lambda: index.scores(query)]
    searches.append(lambda: segment.images_at(np.arange(1, len(segment))))
    for search in searches * 2:
        line = attempt(search)
        assert line.startswith(beginning), line


def lose_small_files(path: Path) -> None:
    """Truncates all small files of an index, which then answers as before."""
    index, query = make_asmk(path)
    expected, ids = index.search(query, 10), index.ids()
    (folder,) = folders(path)
    for name in (*store_of(index.layout).SMALL_FILES, *IMAGE_FILES):
        os.truncate(path / folder / name, 0)
    assert index.search(query, 10) == expected
    assert index.ids() == ids
