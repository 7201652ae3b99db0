"""Made local descriptors: elements in feature space, the topics that images are about, and how popular they are.

The numbers below give, at 65,536 words: about 440 words an image, lists 1.9 times as costly as even ones, a longest
list of some 25 times the mean, 5 % of words without any image, and a query at 5 words a descriptor that scans 5.7 % of
all entries. Descriptors vary in all 128 dimensions alike, as whitened ones do.
"""

import numpy as np
from numpy.typing import NDArray

DIMENSIONS = 128
ELEMENTS_A_WORD = 6
SIBLINGS = 16  # elements that lie around one place in feature space
SPREAD = np.float32(0.8)  # of siblings around it; places are at distance 1 in every dimension
NOISE = np.float32(0.32)  # of descriptors around their element
TOPIC = 256  # elements, at most
TOPICS_AN_IMAGE = 12
SHOWN = 780  # elements that an image shows, some several times; the descriptors are chosen among them
DESCRIPTORS = (450, 951)  # an image; below the 1,000 where faiss takes another path
SKEW = 1.8  # of popularity: the share x of the most popular ones is chosen with probability x^(1/SKEW)
SHUFFLED = 0.7  # how far elements of one place differ in popularity


class Mixture:
    """Where descriptors come from.

    Attributes:
        elements: float32 [E, D], topic by topic, the popular ones first.
    """

    def __init__(self, words: int, random: np.random.Generator) -> None:
        """``words``: of the codebook that will be made of it."""
        count = words * ELEMENTS_A_WORD
        self._topic = min(TOPIC, max(1, count // 32))
        self._topics = count // self._topic
        places = random.standard_normal((-(-count // SIBLINGS), DIMENSIONS), np.float32)
        self.elements = SPREAD * random.standard_normal((count, DIMENSIONS), np.float32)
        self.elements += places[self._places(count, random)]

    def draw(self, images: int, random: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """What images show: the number of descriptors of each, int64 [n], and the elements of all, int64 [sum]."""
        counts = random.integers(*DESCRIPTORS, images)
        topics = _skewed(random, self._topics, (images, TOPICS_AN_IMAGE))
        chosen = np.take_along_axis(topics, random.integers(TOPICS_AN_IMAGE, size=(images, SHOWN)), axis=1)
        shown = chosen * self._topic + _skewed(random, self._topic, (images, SHOWN))
        return counts, shown[np.repeat(np.arange(images), counts), random.integers(SHOWN, size=int(counts.sum()))]

    def describe(self, elements: NDArray[np.int64], random: np.random.Generator) -> NDArray[np.float32]:
        """A descriptor of every element, float32 [n, D]."""
        return around(self.elements[elements], NOISE, random)

    def _places(self, count: int, random: np.random.Generator) -> NDArray[np.int64]:
        """The place of every element, so that siblings are of like popularity: dense regions are popular ones."""
        numbers = np.arange(count)
        topic, within = numbers // self._topic % self._topics, numbers % self._topic
        popularity = (1 / SKEW - 1) * (np.log(topic + 0.5) + np.log(within + 0.5))
        places = np.empty(count, np.int64)
        places[np.argsort(popularity + SHUFFLED * random.standard_normal(count))] = numbers // SIBLINGS
        return places


def around(points: NDArray[np.float32], noise: np.float32, random: np.random.Generator) -> NDArray[np.float32]:
    """The points float32 [n, D], each with noise of that much in every dimension."""
    return points + noise * random.standard_normal(points.shape, np.float32)


def _skewed(random: np.random.Generator, below: int, shape: tuple[int, ...]) -> NDArray[np.int64]:
    return (below * random.random(shape) ** SKEW).astype(np.int64)
