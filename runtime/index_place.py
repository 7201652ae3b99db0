"""Where a retriever's index lies: opened with the engine that it belongs to, or made for it."""

from dataclasses import dataclass, replace
from pathlib import Path

from runtime.encoder import Encoder
from runtime.errors import IncompatibleError, StorageError, UsageError
from runtime.first_stage import Layout
from runtime.index import AnyIndex, Index


@dataclass(frozen=True)
class IndexPlace:
    """A folder that is an index, or is to become one.

    Attributes:
        folder: of the index, absolute: whatever the current folder is later.
        path: the same as its user names it.
        encoder: of the engine.
        geometry: whether an index that is made keeps where its features lie.
        regions: levels of the grid that its photos are to be aggregated by; None for what an index has, or for none.
        wait: seconds for another process that is writing.
    """

    folder: Path
    path: Path
    encoder: Encoder
    geometry: bool
    regions: int | None
    wait: float

    @property
    def layout(self) -> Layout:
        """Of an index that is made."""
        layout = replace(self.encoder.first_stage.layout, regions=self.regions or 0)
        return layout if self.geometry else replace(layout, geometry=False)

    def opened(self) -> AnyIndex | None:
        """The index, if there is one. Raises HowlError if it is another engine's, damaged, or has other regions."""
        return self._open() if Index.exists(self.folder) else None

    def made(self) -> AnyIndex:
        """A new index, or the one that another process has made meanwhile. Raises HowlError as ``opened``."""
        fingerprint = self.encoder.manifest.fingerprint
        try:
            return Index.create(self.folder, fingerprint=fingerprint, layout=self.layout, wait=self.wait)
        except (StorageError, UsageError):
            if not Index.exists(self.folder):
                raise
            return self._open()  # another process was faster

    def check_regions(self, index: AnyIndex, asked: int) -> None:
        """Raises IncompatibleError if an index aggregates its photos by other regions."""
        if index.layout.regions != asked:
            raise IncompatibleError(
                f"{self.path}: aggregates its photos by {index.layout.regions} levels of regions, not {asked}: an "
                "index has one way for all of them; make another one (howl index --index)"
            )

    def _open(self) -> Index:
        engine, stage = self.encoder.path, self.encoder.first_stage
        index = Index.of_engine(self.folder, engine, self.encoder.manifest.fingerprint, stage.layout, wait=self.wait)
        if self.regions is not None:
            try:
                self.check_regions(index, self.regions)
            except IncompatibleError:
                index.close()
                raise
        return index
