"""How good a ranking is: average precision and precision at k, as the revisited Oxford/Paris protocol has them."""

import numpy as np
from numpy.typing import ArrayLike, NDArray


def average_precision(ranks: ArrayLike, positives: int) -> float:
    """Trapezoidal average precision (Philbin et al., 2007; revisitop's ``compute_ap``).

    Args:
        ranks: the 0-based ranks of the positives that were retrieved, junk already taken out of the ranking.
        positives: how many positives there are, retrieved or not.

    Returns:
        a value in [0, 1]: Σ over retrieved positives of the mean of the precision before and at it, over
        ``positives``. Ranks 0 and 2 of 2 give 0.7917.
    """
    r = np.sort(np.asarray(ranks, np.float64))
    found = np.arange(len(r))
    before = np.divide(found, r, out=np.ones(len(r)), where=r > 0)
    at = (found + 1) / (r + 1)
    return float((before + at).sum() / (2 * positives))


def positive_ranks(ranking: ArrayLike, positives: ArrayLike, junk: ArrayLike = ()) -> NDArray[np.intp]:
    """The 0-based ranks of the positives in a ranking of image numbers, once junk has been taken out of it."""
    order = np.asarray(ranking, np.int64)
    kept = order[~np.isin(order, np.asarray(junk, np.int64))]
    return np.flatnonzero(np.isin(kept, np.asarray(positives, np.int64)))


def precision_at(ranks: ArrayLike, k: int) -> float:
    """mP@k of revisitop: the share of positives among the first min(rank of the last positive, k) results.

    0 where no positive was retrieved.
    """
    one_based = np.asarray(ranks, np.int64) + 1
    if len(one_based) == 0:
        return 0.0
    depth = min(int(one_based.max()), k)
    return float((one_based <= depth).sum() / depth)
