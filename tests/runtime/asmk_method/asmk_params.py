"""asmk's parameters, as its users write them."""

from typing import Any


def asmk_params(words: int, assignments: int) -> dict[str, Any]:
    """Those of a codebook of so many words, to so many of which a descriptor of a query is assigned."""
    return {
        "index": {"gpu_id": None},
        "train_codebook": {"codebook": {"size": words}},
        "build_ivf": {
            "kernel": {"binary": True},
            "ivf": {"use_idf": False},
            "quantize": {"multiple_assignment": 1},
            "aggregate": {},
        },
        "query_ivf": {
            "quantize": {"multiple_assignment": assignments},
            "aggregate": {},
            "search": {"topk": None},
            "similarity": {"similarity_threshold": 0.0, "alpha": 3.0},
        },
    }
