"""What a request carries: photos, in a form or as the whole body, counted while they arrive."""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

import numpy as np
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from runtime.errors import UsageError
from runtime.io.image import MIN_SIDE, Image, PhotoInput, decode
from runtime.service.refusals import CLOSED, RefusedError

MAX_PHOTOS, MAX_FIELDS = 64, 10_000  # of a form
PHOTO = "photo"  # the name of a form's field


@dataclass(frozen=True)
class Body:
    """What a request carries.

    Attributes:
        photos: encoded.
        fields: of a form, by name.
        is_form: whether it was one; otherwise the body is a photo.
    """

    photos: list[bytes]
    fields: dict[str, list[str]] = field(default_factory=dict)
    is_form: bool = False

    def photo(self) -> bytes:
        """The only photo. Raises UsageError if there is none, or several."""
        if len(self.photos) != 1 or not self.photos[0]:
            found = "none" if not any(self.photos) else str(len(self.photos))
            raise UsageError(f"one photo is needed, as the body or as the field {PHOTO!r} of a form; there is {found}")
        return self.photos[0]


async def read_body(request: Request, max_body: int, timeout: float) -> Body:
    """Receives a request.

    Args:
        request: whose body has not been read.
        max_body: bytes; a request that says that it has more is refused before any arrives.
        timeout: seconds, for all of it.

    Raises:
        RefusedError: too large (413), too slow (408), or the caller is gone.
        UsageError: it is no form, though it says so.
    """
    try:
        async with asyncio.timeout(timeout):
            chunks = _counted(request, max_body)
            if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "multipart/form-data":
                return Body([b"".join([chunk async for chunk in chunks])])
            return await _form(request, chunks)
    except TimeoutError:
        raise RefusedError(408, f"the request did not arrive within {timeout:g} s") from None
    except ClientDisconnect:
        raise RefusedError(CLOSED, "the caller hung up in the middle of the request") from None


async def _counted(request: Request, max_body: int) -> AsyncGenerator[bytes, None]:
    """The body, piece by piece. Raises RefusedError as soon as it is too large."""
    too_large = RefusedError(
        413, f"a request of more than {max_body / 1e6:g} MB; send a smaller photo", {"Connection": "close"}
    )
    announced = request.headers.get("content-length", "0")
    if announced.isdecimal() and int(announced) > max_body:
        raise too_large
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > max_body:
            raise too_large
        yield chunk


async def _form(request: Request, chunks: AsyncGenerator[bytes, None]) -> Body:
    try:
        form = await MultiPartParser(request.headers, chunks, max_files=MAX_PHOTOS, max_fields=MAX_FIELDS).parse()
    except (MultiPartException, ValueError, KeyError) as error:
        reason = getattr(error, "message", None) or str(error)
        raise UsageError(f"not a form that can be read: {reason}") from None
    photos: list[bytes] = []
    fields: dict[str, list[str]] = {}
    try:
        for name, value in form.multi_items():
            if not isinstance(value, UploadFile):
                fields.setdefault(name, []).append(value)
            elif name == PHOTO:
                photos.append(await value.read())
            else:
                raise UsageError(f"a file in the field {name!r}: photos go into {PHOTO!r}")
    finally:
        await form.close()
    return Body(photos, fields, is_form=True)


def cropped(photo: bytes, box: tuple[int, int, int, int] | None, max_pixels: int) -> PhotoInput:
    """A photo, or a part of it as uint8 [H, W, 3] in BGR order.

    Args:
        photo: encoded.
        box: left, top, right and bottom, in pixels of the upright photo; None for all of it.
        max_pixels: of the photo.

    Raises:
        ImageError: the photo cannot be read.
        UsageError: too little of the box lies in it.
    """
    if box is None:
        return photo
    whole: Image = decode(photo, max_pixels=max_pixels)
    height, width = whole.shape[:2]
    left, top, right, bottom = max(0, box[0]), max(0, box[1]), min(width, box[2]), min(height, box[3])
    if min(right - left, bottom - top) < MIN_SIDE:
        raise UsageError(
            f"box={','.join(map(str, box))}: {MIN_SIDE}×{MIN_SIDE} pixels of it at least must lie in the photo, which "
            f"has {width}×{height}"
        )
    return np.ascontiguousarray(whole[top:bottom, left:right])
