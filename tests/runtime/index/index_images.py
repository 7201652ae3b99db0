"""Made images for the tests of the index, and what an index says of them."""

from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from runtime.asmk.codes import AsmkCodes, AsmkQuery, pack_signs
from runtime.asmk.inverted_file import InvertedFile
from runtime.asmk.kernel import AsmkParameters, selectivity
from runtime.errors import HowlError
from runtime.first_stage import ASMK, Layout
from runtime.index import Hit, Index

D = 40  # not a multiple of 64: codes have padding
WORDS = 60
LAYOUT = Layout(ASMK, D, geometry=True)
TABLE = selectivity(D, AsmkParameters())

# The beginning of a program for a new process: it knows the images, and its first argument is the index.
IN_A_NEW_PROCESS = f"""
import json, os, sys, time
from pathlib import Path
sys.path.append({str(Path(__file__).parent)!r})
from index_images import *
path = Path(sys.argv[1])
"""


@cache
def make_image(seed: int) -> AsmkCodes:
    """An image of ten words out of sixty: any two share some."""
    random = np.random.default_rng(seed)
    words = np.sort(random.choice(WORDS, 10, replace=False)).astype(np.uint32)
    signs = pack_signs(random.normal(size=(10, D)))
    return AsmkCodes(words, signs, random.integers(0, 2**32, 10, np.uint32))


def as_query(image: AsmkCodes) -> AsmkQuery:
    """The image as one searches with it."""
    return AsmkQuery(*image, TABLE)


def make_query(seed: int) -> AsmkQuery:
    """The image of a seed as one searches with it."""
    return as_query(make_image(seed))


def make_images(*seeds: int) -> tuple[list[str], list[AsmkCodes]]:
    """Ids and images."""
    return [f"image{seed}" for seed in seeds], [make_image(seed) for seed in seeds]


def new_index(path: Path) -> Index:
    return Index.create(path, fingerprint="an engine", layout=LAYOUT)


def found(index: Index, seed: int, top: int = 100) -> list[str]:
    return [hit.id for hit in index.search(make_query(seed), top)]


def everything(index: Index) -> list[list[Hit]]:
    """All that an index can be heard to say: the answers to eight queries, six of them images of the index."""
    return [index.search(make_query(seed), 100) for seed in range(8)]


@cache
def expected_answers(*seeds: int) -> list[list[Hit]]:
    """What an inverted file made of these images again answers, whichever of them is the query."""
    ids, images = make_images(*seeds)
    fresh = InvertedFile.build(images, Layout(ASMK, D))
    answers = (fresh.best(as_query(query), np.ones(len(ids), bool), 1000) for query in images)
    return [
        [Hit(ids[number], score) for number, score in zip(ordinals, scores.tolist(), strict=True)]
        for ordinals, scores in answers
    ]


def assert_holds(index: Index, seeds: Iterable[int]) -> None:
    """The index holds these images in this order, and answers like one made of them again."""
    seeds = tuple(seeds)
    ids, images = make_images(*seeds)
    assert index.ids() == ids
    assert [index.search(as_query(image), 1000) for image in images] == expected_answers(*seeds)
    assert index.verify() == []


def folders(path: Path) -> set[str]:
    return {entry.name for entry in path.iterdir() if entry.is_dir()}


def refusal(action: Callable[[], object]) -> str:
    """The one line with which something is refused."""
    with pytest.raises(HowlError) as caught:
        action()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def attempt(action: Callable[[], object]) -> str:
    """The one line with which something is refused; nothing where it is done."""
    try:
        action()
    except HowlError as error:
        return str(error)
    return ""
