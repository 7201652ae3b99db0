"""The application: what there is to call, over a retriever. ``docs/serving.md`` says it for people.

Every route that takes a photo does the same: it takes a place in the bounded queue, receives the body, and has the work
done by a thread. What a caller does wrong is a HowlError, and what it is told is in ``refusals``.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, FastAPI, Query, Request
from fastapi import Path as InPath
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, Response

from runtime.addition import AddReport
from runtime.errors import HowlError, ImageError, UnknownIdError, UsageError
from runtime.first_stage import ASMK
from runtime.io.image import decode, read_photo
from runtime.rerank.comparison import Comparison, compare
from runtime.retriever import Retriever
from runtime.service.bodies import Body, cropped, read_body
from runtime.service.drawing import as_json, draw
from runtime.service.guard import Doors, Guard
from runtime.service.metrics import Metrics
from runtime.service.options import ServiceOptions
from runtime.service.page import description, page
from runtime.service.photos import KEPT, Photos, check_images, check_new_id
from runtime.service.refusals import OUTCOME, NoIndexError, RefusedError, answer_to, describe_invalid
from runtime.service.schemas import (
    MAX_LISTED,
    Added,
    AddOptions,
    Answers,
    Info,
    Listing,
    MatchOptions,
    Removal,
    SearchOptions,
    as_added,
    as_models,
)
from runtime.service.upkeep import Upkeep
from runtime.service.work import Job, Workers

TITLE, SUMMARY = "howl", "Finds the photos of the same place."
PHOTO_BODY = {  # what the handlers read themselves, while they count it
    "requestBody": {
        "required": True,
        "content": {
            "image/*": {"schema": {"type": "string", "format": "binary"}},
            "multipart/form-data": {
                "schema": {"type": "object", "properties": {"photo": {"type": "string", "format": "binary"}}}
            },
        },
    }
}
PREVIEWERS = 2  # threads
PhotoId = Annotated[str, InPath(description="Of a photo of the index; encoded whole, slashes too.")]
FOR_A_WHILE = {"Cache-Control": "private, max-age=300"}  # of pictures; one that is replaced is seen then


def create_app(retriever: Retriever, options: ServiceOptions) -> FastAPI:
    """The application of a server.

    Args:
        retriever: that answers; the caller closes it when the server has ended.
        options: what the server is to do.
    """
    service = Service(retriever, options)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        upkeep = asyncio.create_task(service.upkeep.run(options.refresh))
        try:
            yield
        finally:
            upkeep.cancel()
            with suppress(asyncio.CancelledError):
                await upkeep
            service.close()

    app = FastAPI(title=TITLE, description=SUMMARY, lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    app.include_router(public_routes(service, app))
    app.include_router(reading_routes(service))
    app.include_router(writing_routes(service))
    app.add_middleware(Guard, options=options, metrics=service.metrics)

    @app.exception_handler(HowlError)
    async def refuse(request: Request, error: HowlError) -> JSONResponse:
        request.scope[OUTCOME] = str(error)
        return answer_to(error, str(retriever.index_path))

    @app.exception_handler(RequestValidationError)
    async def refuse_parameters(request: Request, error: RequestValidationError) -> JSONResponse:
        return await refuse(request, describe_invalid(list(error.errors())))

    @app.exception_handler(HTTPException)
    async def refuse_route(request: Request, error: HTTPException) -> JSONResponse:
        return await refuse(request, RefusedError(error.status_code, str(error.detail), error.headers))

    return app


class Service:
    """What the routes share.

    Attributes:
        retriever: that answers.
        options: of the server.
        searches: the threads that search, and the queue before them.
        writes: the only thread that writes, and the queue before it.
        previews: the threads that shrink photos, and the queue before them.
        photos: the files of photos.
        metrics: what is measured.
        upkeep: looks at the index.
        doors: who may read and write.
    """

    def __init__(self, retriever: Retriever, options: ServiceOptions) -> None:
        self.retriever, self.options = retriever, options
        self.searches = Workers("search", options.workers, options.queue, options.timeout)
        self.writes = Workers("write", 1, options.queue, options.timeout)
        self.previews = Workers("preview", PREVIEWERS, 4 * options.queue, options.timeout)
        self.photos = Photos(retriever, options.photos, keeps_added=options.keeps_added)
        self.metrics = Metrics()
        self.upkeep = Upkeep(retriever, self.metrics)
        self.doors = Doors(options)
        for name, workers in (("search", self.searches), ("write", self.writes), ("preview", self.previews)):
            self.metrics.watch(f"{name}_queue_length", "Requests that wait.", partial(getattr, workers, "waiting"))
            self.metrics.watch(f"{name}_running", "Requests that are worked on.", partial(getattr, workers, "running"))

    def close(self) -> None:
        """Waits for the work that runs."""
        for workers in (self.searches, self.writes, self.previews):
            workers.close()

    async def receive(self, request: Request) -> Body:
        """The body of a request, within the limits."""
        return await read_body(request, self.options.max_body, self.options.timeout)

    def info(self) -> Info:
        """What the server is and can do."""
        manifest = self.retriever.encoder.manifest
        writes: Literal["open", "token", "no"] = "open" if self.options.token is None else "token"
        return Info(
            photos=len(self.retriever),
            has_index=self.retriever.index is not None,
            system=manifest.system,
            method=manifest.method,
            image_size=manifest.image_size,
            rerankers=self.retriever.rerankers(),
            shows_photos=self.photos.are_shown,
            compares=self.photos.are_shown and manifest.method == ASMK,
            writes=writes if self.options.may_write else "no",
            keeps_added=self.options.keeps_added,
            is_private=self.options.is_private,
            max_body=self.options.max_body,
            stranger_score=self.retriever.stranger_score,
            fault=self.upkeep.fault,
        )

    def search(self, job: Job, photo: bytes, asked: SearchOptions) -> Answers:
        """The answers to a photo."""
        if asked.candidates is not None and asked.rerank is None:
            raise UsageError("candidates: only a re-ranking looks at them; name one with rerank")
        if asked.rerank is not None and asked.rerank not in (usable := self.retriever.rerankers()):
            raise UsageError(f"rerank={asked.rerank!r}: this server has {', '.join(usable) or 'none'}")
        if self.retriever.index is None:
            raise NoIndexError("there is no index yet: add photos first")
        hits = self.retriever.search(
            cropped(photo, asked.box, self.retriever.encoder.max_pixels),
            asked.top,
            min_score=asked.min_score,
            only=asked.only,
            exclude=asked.exclude or (),
            rerank=asked.rerank,
            candidates=asked.candidates,
            progress=job.lap,
        )
        self.metrics.partial.inc(hits.is_partial)
        return Answers(
            hits=as_models(hits),
            missing=list(hits.missing),
            stranger_score=self.retriever.stranger_score,
            photos=len(self.retriever),
            milliseconds=job.stages,
        )

    def compare(self, job: Job, photo: bytes, id_: str, asked: MatchOptions) -> tuple[Comparison, Any, bytes]:
        """What a query and a photo of the index have in common, and both photos."""
        image = read_photo(self.photos.find(id_))
        query = cropped(photo, asked.box, self.retriever.encoder.max_pixels)
        job.lap("decode")
        seen = compare(self.retriever.encoder, query, image, asked.top)
        job.lap("compare")
        return seen, query, image

    def draw(self, job: Job, photo: bytes, id_: str, asked: MatchOptions) -> bytes:
        """``compare`` as a picture."""
        seen, query, image = self.compare(job, photo, id_, asked)
        limit = self.retriever.encoder.max_pixels
        drawn = draw(seen, decode(query, max_pixels=limit), decode(image, max_pixels=limit))
        job.lap("draw")
        return drawn

    def add(self, body: Body, asked: AddOptions) -> Added:
        """Adds photos, in one commit; they are on the disk when this returns."""
        photos = body.photos if body.is_form else [body.photo()]
        if not photos:
            raise UsageError("no photos in this form: they go into the field 'photo'")
        if asked.id is not None:
            ids = [check_new_id(id_) for id_ in asked.id]
            return as_added(self._added(photos, ids, asked.existing))
        check_images(photos)
        if not self.options.keeps_added:
            return as_added(self._added(photos, [f"{KEPT}/{Photos.name_for(each)}" for each in photos], asked.existing))
        return as_added(self._kept(photos, asked.existing))

    def _kept(self, photos: list[bytes], existing: str) -> AddReport:
        """Adds photos of which the server keeps the files; those that are not in the index at the end are deleted."""
        files: dict[str, Path] = {}  # by id
        new, held = set[str](), set[str]()
        try:
            for photo in photos:
                file, is_new = self.photos.keep(photo)
                files[self.photos.id_of(file)] = file
                new |= {self.photos.id_of(file)} if is_new else set()
            report = self._added(list(files.values()), list(files), existing)
            held.update(report.added, report.present)
        finally:
            for id_ in new - held:
                files[id_].unlink(missing_ok=True)
        lines = {id_: line.removeprefix(f"{files[id_]}: ") for id_, line in report.skipped.items()}
        return replace(report, skipped=lines)

    def _added(self, photos: list[Any], ids: list[str], existing: str) -> AddReport:
        """``Retriever.add``, where a single photo that cannot be read is an error."""
        report = self.retriever.add(photos, ids, existing=existing)
        self.metrics.photos.set(len(self.retriever))
        if len(photos) == 1 and report.skipped:
            (line,) = report.skipped.values()
            raise ImageError(line.removeprefix(f"{photos[0]}: ") if isinstance(photos[0], Path) else line)
        return report

    def remove(self, ids: list[str]) -> None:
        """Removes photos in one commit, and the files that callers had sent."""
        index = self.retriever.index
        known = set() if index is None else set(index.existing(ids))
        if missing := [id_ for id_ in ids if id_ not in known]:
            raise UnknownIdError(f"{missing[0]}: not in the index; nothing was removed")
        files = [file for id_ in ids if (file := self.photos.forget(id_)) is not None]
        self.retriever.remove(ids)
        self.metrics.photos.set(len(self.retriever))
        for file in files:
            file.unlink(missing_ok=True)


def public_routes(service: Service, app: FastAPI) -> APIRouter:
    """What needs no token: the page, which has no photo in it, and whether the server is well."""
    router = APIRouter()

    @router.head("/", include_in_schema=False)
    @router.get("/", include_in_schema=False)
    async def show_page() -> HTMLResponse:
        return page()

    @router.get("/docs", include_in_schema=False)
    async def show_description() -> HTMLResponse:
        return description(app.openapi())

    @router.get("/openapi.json", include_in_schema=False)
    async def show_schema() -> JSONResponse:
        return JSONResponse(app.openapi())

    @router.head("/healthz", include_in_schema=False)
    @router.get("/healthz", summary="Is the process alive?")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @router.head("/readyz", include_in_schema=False)
    @router.get("/readyz", summary="Can it answer? 503 while the index at its path cannot be taken up.")
    async def readyz() -> dict[str, str]:
        if service.upkeep.fault is not None:
            raise RefusedError(503, "the index at its path cannot be taken up, or its shards do not answer")
        return {"status": "ok"}

    return router


def reading_routes(service: Service) -> APIRouter:
    """What searches and shows."""
    router = APIRouter(dependencies=[Depends(service.doors.reader)])
    searches, previews = service.searches, service.previews

    @router.get("/info", summary="What this server is and can do.")
    async def info() -> Info:
        return await asyncio.to_thread(service.info)

    @router.get("/metrics", summary="Measurements, for Prometheus.", response_class=Response)
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @router.post("/search", summary="The photos most like the one that is sent.", openapi_extra=PHOTO_BODY)
    async def search(request: Request, asked: Annotated[SearchOptions, Query()]) -> Answers:
        with searches.place():
            body = await service.receive(request)
            whole, photo = asked.with_fields(body.fields), body.photo()
            answers = await searches.run(request, lambda job: service.search(job, photo, whole))
            service.metrics.worked(answers.milliseconds)
            return answers

    @router.get("/photos", summary="The ids, in the order of addition.")
    async def listing(
        offset: Annotated[int, Query(ge=0, description="The first, counted from 0.")] = 0,
        limit: Annotated[int, Query(ge=1, le=MAX_LISTED, description="Ids, at most.")] = 100,
    ) -> Listing:
        index = service.retriever.index
        if index is None:
            return Listing(photos=0, ids=[])
        return Listing(photos=len(index), ids=await asyncio.to_thread(index.page, offset, offset + limit))

    @router.get("/photos/known", summary="Whether a photo is in the index.")
    async def known(id: Annotated[str, Query(description="Of a photo.")]) -> dict[str, bool]:
        index = service.retriever.index
        return {"known": index is not None and bool(await asyncio.to_thread(index.existing, [id]))}

    @router.get("/photos/{id:path}/image", summary="A photo, or a preview of it.", response_class=Response)
    async def image(
        request: Request,
        id: PhotoId,
        side: Annotated[
            Literal["480", "1600"] | None, Query(description="Pixels of a JPEG of it; without, the file itself.")
        ] = None,
    ) -> Response:
        with previews.place():
            if side is None:
                file, kind = await previews.run(request, lambda job: service.photos.original(id))
                return FileResponse(file, media_type=kind, headers=FOR_A_WHILE)
            made = await previews.run(request, lambda job: service.photos.preview(id, int(side)))
            return Response(made, media_type="image/jpeg", headers=FOR_A_WHILE)

    @router.post(
        "/photos/{id:path}/matches",
        summary="What a photo that is sent has in common with one of the index.",
        openapi_extra=PHOTO_BODY,
    )
    async def matches(request: Request, id: PhotoId, asked: Annotated[MatchOptions, Query()]) -> dict[str, Any]:
        with searches.place():
            body = await service.receive(request)
            whole, photo = asked.with_fields(body.fields), body.photo()
            seen, _, _ = await searches.run(request, lambda job: service.compare(job, photo, id, whole))
            return as_json(seen)

    @router.post(
        "/photos/{id:path}/matches.jpg",
        summary="The same as a picture.",
        response_class=Response,
        openapi_extra=PHOTO_BODY,
    )
    async def picture(request: Request, id: PhotoId, asked: Annotated[MatchOptions, Query()]) -> Response:
        with searches.place():
            body = await service.receive(request)
            whole, photo = asked.with_fields(body.fields), body.photo()
            drawn = await searches.run(request, lambda job: service.draw(job, photo, id, whole))
            return Response(drawn, media_type="image/jpeg")

    return router


def writing_routes(service: Service) -> APIRouter:
    """What changes the index. When one of these has answered with 200, the change is on the disk."""
    router = APIRouter(dependencies=[Depends(service.doors.writer)])
    writes = service.writes

    @router.post("/photos", summary="Adds a photo, or several of a form.", openapi_extra=PHOTO_BODY)
    async def add(request: Request, asked: Annotated[AddOptions, Query()]) -> Added:
        with writes.place():
            body = await service.receive(request)
            whole = asked.with_fields(body.fields)
            return await writes.run(request, lambda job: service.add(body, whole), is_written=True)

    @router.post(
        "/photos/remove", summary="Removes photos in one commit: all of them, or none.", openapi_extra=Removal.BODY
    )
    async def remove(request: Request) -> dict[str, int]:
        with writes.place():
            body = await service.receive(request)
            ids = Removal.of(b"".join(body.photos)).ids
            await writes.run(request, lambda job: service.remove(ids), is_written=True)
            return {"removed": len(set(ids))}

    @router.delete("/photos/{id:path}", summary="Removes a photo.")
    async def remove_one(request: Request, id: PhotoId) -> dict[str, int]:
        with writes.place():
            await writes.run(request, lambda job: service.remove([id]), is_written=True)
            return {"removed": 1}

    return router
