"""Several engines as one: ``join_engines``, which ``export/to_joined.py`` calls.

A photo gets the local features of all of them, and ASMK counts what any of them finds again. One kind of features is
never compared with another: ``Placement`` moves the descriptors and visual words of each so far apart that the words
nearest to a descriptor are of its own kind. Residuals, and so codes, stay what they were. Index and kernels know of no
kinds, and the codebook compares no more than it must.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, inliner

from export.files import check_unicode_name, draft_of, orphaned_index, publish
from export.foreign.exporter import photos_to_check
from export.onnx_graph import Nodes, converted, load_graph, local_outputs, opset_of, rename_values, save_engine
from export.parity import TOLERANCES, check_parity, raise_if_unequal, sizes_to_check
from runtime.asmk.codebook import Codebook
from runtime.asmk.kernel import AsmkParameters
from runtime.bundle import EngineFiles, Manifest, is_engine, load_manifest
from runtime.engine import open_engine
from runtime.engine.schema import IMAGE
from runtime.errors import IncompatibleError, MissingError, ParityError, UsageError
from runtime.features import Features, LocalFeatures
from runtime.first_stage import ASMK
from runtime.io.files import ensure_writable
from runtime.io.image import MIN_SIDE, Image

SYSTEM = "joined"
REACH = 2.0  # how far descriptors may lie from the middle of their words, over the farthest word (1.3 were seen)
APART = 2 * (1 + REACH)  # between the middles of two kinds: ‖x − own word‖ ≤ REACH + 1 ≤ ‖x − another kind's word‖
SEED = 0
Say = Callable[[str], None]


@dataclass(frozen=True)
class Part:
    """An engine that is joined with others.

    Attributes:
        path: of its engine.onnx.
        manifest: of it.
        codebook: its visual words.
    """

    path: Path
    manifest: Manifest
    codebook: Codebook

    @property
    def asmk(self) -> AsmkParameters:
        """How its photos are compared."""
        return self.manifest.asmk or AsmkParameters()


@dataclass(frozen=True)
class Placement:
    """x ↦ x · matrix + offset: a kind's descriptors centred, scaled so that its words fill the unit ball, and moved.

    Neither turning nor scaling changes which word is nearest, and each residual keeps its direction. Descriptors of
    fewer dimensions are turned into more, in which the signs of a residual tell its direction more finely (Charikar,
    STOC 2002).

    Attributes:
        matrix: float32 [d, D].
        offset: float32 [D].
    """

    matrix: NDArray[np.float32]
    offset: NDArray[np.float32]

    @classmethod
    def of_words(cls, codebook: Codebook, dimensions: int, place: float) -> "Placement":
        """For one kind's words.

        Args:
            codebook: the words.
            dimensions: D, of the kind with the most.
            place: of the middle of the words, along the diagonal.
        """
        words = codebook.centroids.astype(np.float64)
        middle = words.mean(axis=0)
        radius = max(float(np.linalg.norm(words - middle, axis=1).max()), 1e-12)
        matrix = turned_into(codebook.dimensions, dimensions) / radius
        offset = np.full(dimensions, place / np.sqrt(dimensions)) - middle @ matrix
        return cls(matrix.astype(np.float32), offset.astype(np.float32))

    def __call__(self, descriptors: NDArray[np.float32]) -> NDArray[np.float32]:
        """float32 [n, d] → [n, D]."""
        placed: NDArray[np.float32] = descriptors @ self.matrix + self.offset
        return placed


def turned_into(few: int, many: int) -> NDArray[np.float64]:
    """[few, many] with orthonormal rows: the identity, or drawn at random."""
    if few == many:
        return np.eye(few)
    drawn = np.random.default_rng(SEED).normal(size=(many, few))
    return np.ascontiguousarray(np.linalg.qr(drawn)[0].T)


def placements(codebooks: Sequence[Codebook]) -> list[Placement]:
    """Of all kinds, ``APART`` radii from one to the next, around 0."""
    dimensions, last = max(codebook.dimensions for codebook in codebooks), len(codebooks) - 1
    return [
        Placement.of_words(codebook, dimensions, APART * (number - last / 2))
        for number, codebook in enumerate(codebooks)
    ]


def join_engines(engines: Sequence[Path], out: Path, *, photos: Path | None = None, say: Say = print) -> Manifest:
    """Makes one engine of several, and proves that it gives what they give.

    Args:
        engines: two at least, that give local features for ASMK.
        out: the new engine; all of its files share the name.
        photos: a folder to prove it on; None for textures.
        say: is told, line by line, what happens.

    Returns:
        the manifest of the engine that was written, whole; after an error, nothing was.

    Raises:
        HowlError: an engine cannot be read, they do not go together, or the new engine cannot be written or gives
            something else. Whatever was there before is still there.
    """
    files = EngineFiles.of(out)
    check_unicode_name(files.onnx)
    parts = [open_part(engine) for engine in engines]
    check_parts(parts, files)
    ensure_writable(files.onnx, files.manifest, files.codebook)
    placed = placements([part.codebook for part in parts])
    words = [place(part.codebook.centroids) for place, part in zip(placed, parts, strict=True)]
    manifest = manifest_of(parts, placed)
    codebook = Codebook(np.concatenate(words))
    images = photos_to_check(photos, manifest.image_size)
    with draft_of(files) as draft:
        if (line := orphaned_index(files, manifest.fingerprint)) is not None:
            say(line)
        write(parts, placed, manifest, draft.onnx)
        prove(parts, placed, codebook, manifest, draft.onnx, images, say)
        manifest = publish(draft, files, manifest, codebook)
    say(f"{files.onnx}: {files.onnx.stat().st_size / 1e6:.1f} MB, with {files.manifest} and {files.codebook}")
    return manifest


def open_part(engine: Path) -> Part:
    """An engine to join. Raises HowlError if it cannot be read, or gives no local features for ASMK."""
    files = EngineFiles.of(engine)
    if is_engine(engine) and engine != files.onnx:
        raise UsageError(f"{engine}: graphs are joined; name {files.onnx}")
    if engine.is_file() and engine == files.onnx and not files.manifest.exists():
        raise MissingError(
            f"{files.manifest}: missing, and {engine} no engine without it; of a third party's network, howl export "
            f"{engine} --local makes one"
        )
    manifest = load_manifest(engine)
    if manifest.method != ASMK:
        raise IncompatibleError(f"{engine}: searches by {manifest.method}; engines with visual words can be joined")
    manifest.check(files.codebook, files.manifest)
    return Part(engine, manifest, Codebook.load(files.codebook, manifest.kinds))


def check_parts(parts: Sequence[Part], files: EngineFiles) -> None:
    """Raises HowlError if the engines do not go together, or the new one would take the place of one of them."""
    if len(parts) < 2:
        raise UsageError(f"{', '.join(str(part.path) for part in parts) or 'no engine'}: name two engines at least")
    most = max(part.manifest.dimensions for part in parts)
    for part in parts:
        if part.manifest.kinds > 1 and part.manifest.dimensions < most:  # turned, its kinds would leave the diagonal
            raise IncompatibleError(f"{part.path}: joined, with fewer dimensions than another; join all at once")
        if part.path.resolve() == files.onnx.resolve():
            raise UsageError(
                f"--out {files.onnx}: would take the place of an engine that is joined; name another --out"
            )
        if len(part.codebook) < part.asmk.multiple_assignment:
            raise IncompatibleError(
                f"{part.path}: has {len(part.codebook)} visual words, and a query takes "
                f"{part.asmk.multiple_assignment} for each descriptor; learn them from more photos"
            )
    for one, other in combinations(parts, 2):
        pair = f"{one.path} and {other.path}"
        if not kinds_of(one.manifest).keys().isdisjoint(kinds_of(other.manifest)):
            raise UsageError(f"{pair}: give the same features; name different engines")
        sizes = one.manifest.image_size, other.manifest.image_size
        if sizes[0] != sizes[1]:
            raise IncompatibleError(
                f"{pair}: take photos of {sizes[0]} and {sizes[1]} pixels; export one again: --image-size {sizes[0]}"
            )
        if replace(one.asmk, multiple_assignment=1) != replace(other.asmk, multiple_assignment=1):
            raise IncompatibleError(
                f"{pair}: compare photos with α = {one.asmk.alpha:g}, τ = {one.asmk.threshold:g} and α = "
                f"{other.asmk.alpha:g}, τ = {other.asmk.threshold:g}; join engines that have the same"
            )


def kinds_of(manifest: Manifest) -> dict[str, object]:
    """What gives each kind of features, by its fingerprint: the engine itself, or what it was joined of."""
    if manifest.system == SYSTEM and isinstance(manifest.network.get("kinds"), dict):
        return dict(manifest.network["kinds"])  # type: ignore[call-overload]
    return {manifest.fingerprint: {"system": manifest.system, **manifest.network}}


def manifest_of(parts: Sequence[Part], placed: Sequence[Placement]) -> Manifest:
    """What howl knows about the new engine, but for the checksums of its files."""
    manifests = [part.manifest for part in parts]
    sha = hashlib.sha256(SYSTEM.encode())
    for manifest, place in zip(manifests, placed, strict=True):
        sha.update(manifest.fingerprint.encode())
        sha.update(place.matrix.tobytes())
        sha.update(place.offset.tobytes())
    kinds = {key: network for each in manifests for key, network in kinds_of(each).items()}
    most = max(part.asmk.multiple_assignment for part in parts)
    return Manifest(
        fingerprint=sha.hexdigest(),
        system=SYSTEM,
        method=ASMK,
        image_size=manifests[0].image_size,
        scales=tuple(sorted({scale for each in manifests for scale in each.scales}, reverse=True)),
        dimensions=max(each.dimensions for each in manifests),
        features=sum(each.features or 0 for each in manifests),
        asmk=replace(parts[0].asmk, multiple_assignment=most),
        network={"kinds": kinds},
        kinds=len(kinds),
        precision="+".join(dict.fromkeys(each.precision for each in manifests)),
    )


def write(parts: Sequence[Part], placed: Sequence[Placement], manifest: Manifest, path: Path) -> None:
    """Writes the graph of all parts: every one's own, and the rows of each that are valid before those that are not.

    Raises:
        IncompatibleError: two of the graphs need different versions of operators, or all are too large for one file.
    """
    nodes, models = Nodes(), of_one_opset([part.path for part in parts])
    rows: dict[str, list[tuple[str, str]]] = {"descriptors": [], "strengths": [], "positions": []}
    counts = []
    joined = onnx.ModelProto()
    joined.graph.name = "joined"
    joined.ir_version = max(model.ir_version for model in models)
    joined.opset_import.extend(models[0].opset_import)
    for number, (model, place) in enumerate(zip(models, placed, strict=True)):
        prefix = f"part{number}/"
        rename_values(model.graph, prefix)
        joined.graph.node.append(helper.make_node("Identity", [IMAGE], [prefix + IMAGE], name=prefix + IMAGE))
        for node in model.graph.node:
            node.name = node.name and prefix + node.name
        joined.graph.node.extend(model.graph.node)
        joined.graph.initializer.extend(model.graph.initializer)
        joined.graph.sparse_initializer.extend(model.graph.sparse_initializer)
        joined.graph.quantization_annotation.extend(model.graph.quantization_annotation)
        turned = nodes.add("MatMul", prefix + "descriptors", nodes.constant(place.matrix))
        moved = nodes.add("Add", turned, nodes.constant(place.offset))
        count = nodes.add("Cast", prefix + "count", to=TensorProto.INT64)
        for name in rows:
            rows[name].append(divided(nodes, moved if name == "descriptors" else prefix + name, count))
        counts.append(prefix + "count")
    for name, halves in rows.items():
        valid, padding = zip(*halves, strict=True)
        nodes.add("Concat", *valid, *padding, axis=0, output=name)
    nodes.add("ReduceSum", nodes.add("Concat", *counts, axis=0), keepdims=1, output="count")
    joined.graph.node.extend(nodes.made)
    joined.graph.initializer.extend(nodes.constants)
    outputs = local_outputs(manifest.features or 0, manifest.dimensions)
    too_large = f"{path.name}: larger than 2 GB, which is the most that one graph may have"
    save_engine(path, joined, outputs, {"howl.fingerprint": manifest.fingerprint}, too_large)


def of_one_opset(paths: Sequence[Path]) -> list[Any]:
    """The graphs of engines, with the newest operators that one of them has, and without functions of their own.

    Raises:
        IncompatibleError: one cannot be converted, or two need different versions of other operators.
    """
    models = [inliner.inline_local_functions(load_graph(path)) for path in paths]
    newest = max(opset_of(model) for model in models)
    for number, model in enumerate(models):
        if opset_of(model) < newest:
            models[number] = converted(paths[number], model, newest, f"an engine beside it of {newest}")
    needed: dict[str, int] = {}
    for path, model in zip(paths, models, strict=True):
        for each in model.opset_import:
            if needed.setdefault(each.domain, each.version) != each.version:
                raise IncompatibleError(f"{path}: needs other operators of {each.domain} than the engine before it")
    for model in models:
        del model.opset_import[:]
        model.opset_import.extend(helper.make_opsetid(domain, version) for domain, version in needed.items())
    return models


def divided(nodes: Nodes, values: str, count: str) -> tuple[str, str]:
    """The first ``count`` rows, and the others."""
    first, end, axis = nodes.whole([0]), nodes.whole([np.iinfo(np.int64).max]), nodes.whole([0])
    return nodes.add("Slice", values, first, count, axis), nodes.add("Slice", values, count, end, axis)


def prove(
    parts: Sequence[Part],
    placed: Sequence[Placement],
    codebook: Codebook,
    manifest: Manifest,
    engine: Path,
    photos: Sequence[Image],
    say: Say,
) -> None:
    """Says how far the new engine is from its parts on every image, and that their words are apart.

    Raises:
        ParityError: it is further off than it may be, or a descriptor's words are another part's.
    """
    runner, own = open_engine(engine, "cpu"), [open_engine(part.path, "cpu") for part in parts]
    bounds = np.cumsum([0, *(len(part.codebook) for part in parts)])

    def side_by_side(image: Image) -> Features:
        """What the new engine must give: the features of each part, placed, one after the other."""
        each = [part.extract(image).need_local() for part in own]
        descriptors = [place(features.descriptors) for place, features in zip(placed, each, strict=True)]
        for number, of_part in enumerate(descriptors):
            words = codebook.assign(of_part, max(part.asmk.multiple_assignment for part in parts))
            if not ((bounds[number] <= words) & (words < bounds[number + 1])).all():
                raise ParityError(
                    f"{parts[number].path}: a descriptor lies so far from its visual words that those of another "
                    "engine are as near; learn its words from photos like those that it is for; nothing was written"
                )
        strengths, positions = zip(*((features.strengths, features.positions) for features in each), strict=True)
        return Features(LocalFeatures(*map(np.concatenate, (descriptors, strengths, positions))))

    say(f"{engine.name} against its parts, {runner.provider}, {manifest.precision}:")
    images = [*sizes_to_check(photos[0], MIN_SIDE**2), *photos[1:]]
    differences = check_parity(runner, side_by_side, images, TOLERANCES["fp32"])
    for difference in differences:
        say(f"  {difference}")
    raise_if_unequal(differences, TOLERANCES["fp32"], engine.name, "its parts")
