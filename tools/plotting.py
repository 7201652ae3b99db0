"""matplotlib, where a command draws."""

from typing import Any

from runtime.errors import HowlError


def load_pyplot() -> Any:
    """matplotlib's pyplot, drawing to files; late, for it takes half a second. Raises HowlError where it is missing."""
    try:
        import matplotlib
    except ImportError:
        raise HowlError("matplotlib is not installed, and plots need it: pip install matplotlib") from None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot
