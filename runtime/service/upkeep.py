"""The index of a server: looked at every few seconds, so that what other processes commit is taken up."""

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from runtime.errors import HowlError
from runtime.retriever import Retriever
from runtime.service.metrics import Metrics
from runtime.service.refusals import without_path

logger = logging.getLogger("howl.serve")


@dataclass
class Upkeep:
    """Keeps a retriever at the last commit of its index.

    Attributes:
        retriever: that the server searches with.
        metrics: are told what was found.
        fault: why the index at its path cannot be taken up, without its path; None where all is well.
    """

    retriever: Retriever
    metrics: Metrics
    fault: str | None = None
    _logged: str | None = None

    def look(self) -> None:
        """Takes up what was committed since, or another index that was put in its place; notes what is wrong."""
        fault = None
        try:
            self.retriever.refresh()
        except HowlError as error:  # searches go on in what was opened
            fault = str(error)
        if fault != self._logged and fault is not None:
            logger.error("%s", fault)
        elif fault is None and self._logged is not None:
            logger.info("the index can be taken up again")
        self._logged = fault
        self.fault = None if fault is None else without_path(fault, str(self.retriever.index_path))
        self.metrics.looked_at_index(len(self.retriever), is_well=fault is None)

    async def run(self, seconds: float) -> None:
        """Looks for ever, once in so many seconds."""
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(1, "upkeep") as pool:  # at the end, waits for the look that is under way
            while True:
                await loop.run_in_executor(pool, self.look)
                await asyncio.sleep(seconds)
