"""Answers over HTTP, with a page: ``python tools/serve.py engine.onnx --index DIR [--photos ROOT] [--port 8000]``."""

if __name__ == "__main__":
    import howl

    howl.run_script("tools.serve")  # before the imports: howl.py says why

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from runtime.errors import UsageError
from runtime.index.catalogue import PATIENCE
from runtime.io.cli import (
    add_engine_arguments,
    add_ray_arguments,
    check_ray_arguments,
    positive_int,
    program,
    seconds,
)
from runtime.retriever import Retriever
from runtime.service.app import create_app
from runtime.service.options import (
    MAX_BODY,
    QUEUE,
    REFRESH_SECONDS,
    SECONDS,
    SERVER_PIXELS,
    ServiceOptions,
    access,
    read_token,
)
from runtime.service.server import bind, serve
from tools.opening import open_retriever

MEGA = 1_000_000
SAMPLE = 20  # photos that are looked for at the start


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    token = None if options.token_file is None else read_token(options.token_file)
    hosts, may_write = access(options.host, frozenset(options.allow_host), token)
    settings = ServiceOptions(
        photos=options.photos,
        keeps_added=options.keep_added,
        token=token,
        is_private=options.private,
        may_write=may_write and not options.read_only,
        hosts=hosts,
        max_body=options.max_body * MEGA,
        queue=options.queue,
        timeout=options.timeout,
        refresh=options.refresh,
        **({} if options.workers is None else {"workers": options.workers}),
    )
    listening = bind(options.host, options.port)  # a port that is taken is found out before the engine is loaded
    with (
        listening,
        open_retriever(
            options.engine,
            options.index,
            ray=options.ray,
            replicas=options.replicas,
            on_missing=options.on_missing,
            root=options.photos if options.root is None else options.root,
            matcher=options.matcher,
            device=options.device,
            threshold=options.threshold,
            alpha=options.alpha,
            threads=options.threads,
            wait=options.wait,
            max_pixels=options.max_pixels * MEGA,
        ) as retriever,
    ):
        for line in notes(retriever, settings):
            print(line, file=sys.stderr)
        serve(create_app(retriever, settings), listening, settings.timeout, say)


def say(url: str) -> None:
    """Prints where the server is, for people and for programs that wait for it."""
    print(f"howl serves at {url}  (Ctrl-C ends it)", flush=True)


def notes(retriever: Retriever, settings: ServiceOptions) -> list[str]:
    """What who starts a server may not expect. Raises UsageError if the index is to lie where a file lies."""
    lines = []
    index = retriever.index
    if index is None and retriever.index_path.is_file():
        raise UsageError(f"{retriever.index_path}: a file, and an index is a folder: name another one with --index")
    if index is None:
        lines.append(f"note: {retriever.index_path}: no index yet; photos that are added make it")
    if settings.photos is not None and index is not None and len(index):
        ids = index.page(0, SAMPLE)
        if not any(Path(retriever.root or "", id_).is_file() for id_ in ids):
            mend = "add --root ." if any(Path(id_).is_file() for id_ in ids) else "name that folder with --root"
            lines.append(
                f"warning: no photo at {Path(retriever.root or '', ids[0])}: ids are not seen from --photos, and no "
                f"photo can be shown; {mend}"
            )
    if not settings.may_write:
        lines.append("note: nobody can add or remove photos; --token-file lets those who have the token")
    return lines


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=program("tools/serve.py"),
        description="Answers searches over HTTP: a page for people at /, the interface for programs at /docs.",
    )
    add_engine_arguments(parser, searches=True)
    parser.add_argument("--index", metavar="DIR", help="default: engine.index beside the engine")
    parser.add_argument("--photos", type=Path, metavar="ROOT", help="show the photos of the index that lie below ROOT")
    parser.add_argument("--root", metavar="DIR", help="from which ids are seen; default: --photos")
    parser.add_argument(
        "--matcher", metavar="FILE", help="for rerank=lightglue; default: matcher.onnx beside the engine"
    )
    where = parser.add_argument_group("where")
    where.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s: this machine only)")
    where.add_argument("--port", type=int, default=8000, help="0 takes a free one (%(default)s)")
    where.add_argument(
        "--allow-host",
        metavar="NAME",
        action="append",
        default=[],
        help="another name that the server is called by, as behind a proxy; repeatable",
    )
    who = parser.add_argument_group("who")
    who.add_argument(
        "--token-file",
        type=Path,
        metavar="FILE",
        help="holds the token that writers must name; without one, only callers on this machine may add and remove",
    )
    who.add_argument("--private", action="store_true", help="readers must name the token, too")
    who.add_argument("--read-only", action="store_true", help="nobody adds or removes photos")
    who.add_argument("--keep-added", action="store_true", help="keep photos that are added in ROOT/added, to show them")
    limits = parser.add_argument_group("limits")
    limits.add_argument(
        "--max-body", type=positive_int, default=MAX_BODY // MEGA, metavar="MB", help="of a request (%(default)s)"
    )
    limits.add_argument(
        "--max-pixels",
        type=positive_int,
        default=SERVER_PIXELS // MEGA,
        metavar="MP",
        help="millions of pixels of a photo; larger ones are refused before they are decoded (%(default)s)",
    )
    limits.add_argument("--workers", type=positive_int, metavar="N", help="searches at a time (cores up to 4, and one)")
    limits.add_argument(
        "--queue",
        type=positive_int,
        default=QUEUE,
        metavar="N",
        help="requests that wait for them; more are told to come back later (%(default)s)",
    )
    limits.add_argument(
        "--timeout", type=seconds, default=SECONDS, metavar="SECONDS", help="of a request (%(default)g)"
    )
    limits.add_argument(
        "--refresh",
        type=seconds,
        default=REFRESH_SECONDS,
        metavar="SECONDS",
        help="from one look for what other processes have committed to the next (%(default)g)",
    )
    limits.add_argument(
        "--wait",
        type=seconds,
        default=PATIENCE,
        metavar="SECONDS",
        help="for another process that is writing to the index (%(default)g)",
    )
    add_ray_arguments(parser, searches=True)
    options = parser.parse_args(arguments)
    check_ray_arguments(parser, options, ("replicas", "on_missing"))
    return options
