"""The search on a GPU: matching, quantising, and whole queries by the Retriever."""

import time
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from export.exporter import export_checkpoint
from export.options import ExportOptions
from runtime import Retriever
from runtime.asmk.codebook import Codebook
from runtime.asmk.codes import AsmkCodes, code_length
from runtime.asmk.gpu import GpuCodebook
from runtime.asmk.kernel import aggregate
from runtime.gpu.device import Device
from runtime.index import AnyIndex
from tools.experiments import benchmark_gpu
from tools.experiments.gpu_steps.measuring import Result, spread
from tools.experiments.gpu_steps.preparation import Prepared

INDEXES = (50_000, 200_000, 1_000_000)  # images
QUERY_DESCRIPTORS, ASSIGNMENTS = 700, 5
WORDS, DIMENSIONS = 65_536, 128
BATCHES = (1, 8, 32)
RUNS = 30


def matching(prepared: Prepared, result: Result) -> None:
    """ASMK on the GPU against the C scorer, to the bit, and what it reaches of the memory's bandwidth."""
    for images in INDEXES:
        with result.attempt(images=images):
            report = benchmark_gpu.measure(Device("the report"), images, top=100)
            for timing in report.timings:
                row = {"images": images, "MB a query": round(report.list_bytes / 1e6), **asdict(timing)}
                result.add(**row, share=f"{report.share(timing):.0%}")
    result.note(
        f"Milliseconds a query, medians. The 100 best of {benchmark_gpu.CHECKED_QUERIES} queries were the CPU's to the "
        "bit before each."
    )


def quantising(prepared: Prepared, result: Result) -> None:
    """The five nearest of 65,536 words for 700 descriptors, on the GPU and on the CPU, and the same words."""
    random = np.random.default_rng(0)
    words = random.normal(size=(WORDS, DIMENSIONS)).astype(np.float32)
    queries = random.normal(size=(RUNS, QUERY_DESCRIPTORS, DIMENSIONS)).astype(np.float32)
    codebooks = {"GPU": GpuCodebook(words, Device("the report")), "CPU, all cores": Codebook(words)}
    assigned = {}
    for where, codebook in codebooks.items():
        taken, of_all = [], []
        for query in queries:
            start = time.perf_counter()
            nearest = codebook.assign(query, ASSIGNMENTS, threads=16)
            taken.append(1e3 * (time.perf_counter() - start))
            of_all.append(nearest)
        assigned[where] = np.stack(of_all)
        result.add(where=where, ms=spread(taken[3:]))
    taken = []
    for query, nearest in zip(queries, assigned["GPU"], strict=True):
        start = time.perf_counter()
        aggregate(query, nearest, words)
        taken.append(1e3 * (time.perf_counter() - start))
    result.add(where="CPU: aggregation of the assigned words", ms=spread(taken[3:]))
    same = float((assigned["GPU"] == assigned["CPU, all cores"]).mean())
    result.note(f"{same:.4%} of the words are the same, in the same order.")


def retriever(prepared: Prepared, result: Result) -> None:
    """``Retriever(device="cuda")`` with engine.pt2: photo file in, hits out, with made photos among random images."""
    photos = sorted(prepared.photos.rglob("*.jpg"))
    with TemporaryDirectory() as folder:
        engine = prepared.folder / "fp16.pt2"
        if not engine.exists():  # the step ``export`` was not run
            export_checkpoint(ExportOptions(prepared.checkpoint, out=engine, precision="fp16"), result.note)
        index = Path(folder) / "photos.index"
        with Retriever(engine, index, device="cuda") as opened:
            opened.add(photos)
            if opened.index is not None:
                add_random_images(opened.index, INDEXES[0], opened.encoder.manifest.dimensions)
        for device in ("cuda", None):
            with result.attempt(device=str(device)), Retriever(engine, index, device=device) as opened:
                hits = [opened.search(photo, top=5)[0].id for photo in photos]
                found = sum(Path(hit) == photo for hit, photo in zip(hits, photos, strict=True))
                result.note(f"device={device}: {found} of {len(photos)} photos find themselves first")
                for batch in BATCHES:
                    taken = []
                    for start in range(0, 2 * len(photos), batch):
                        asked = [photos[(start + i) % len(photos)] for i in range(batch)]
                        begin = time.perf_counter()
                        opened.search_many(asked, top=10) if batch > 1 else opened.search(asked[0], top=10)
                        taken.append(1e3 * (time.perf_counter() - begin))
                    p50, p95 = np.percentile(taken, [50, 95])
                    rate = round(1e3 * batch / float(np.mean(taken)), 1)
                    result.add(
                        device=str(device), batch=batch, p50=round(p50, 2), p95=round(p95, 2), queries_a_second=rate
                    )


def add_random_images(index: AnyIndex, images: int, dimensions: int) -> None:
    """Images of random words and codes, as many words each as photos have."""
    random = np.random.default_rng(0)
    words = benchmark_gpu.WORDS_AN_IMAGE
    drawn = [
        AsmkCodes(
            np.sort(random.choice(WORDS, words, replace=False)).astype(np.uint32),
            random.integers(0, 2**64, (words, code_length(dimensions)), np.uint64),
            random.integers(0, 2**32, words, np.uint32),
        )
        for _ in range(1000)
    ]
    index.add([f"random{i}" for i in range(images)], [drawn[i % len(drawn)] for i in range(images)])
