"""What requests and answers look like, for checking them and for the OpenAPI document."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from runtime.addition import AddReport
from runtime.index import Hit
from runtime.rerank import RERANKERS
from runtime.service.refusals import describe_invalid

MAX_TOP, MAX_CANDIDATES, MAX_LISTED = 10_000, 1000, 10_000

Box = tuple[int, int, int, int]


def _box(value: Any) -> Any:
    """Four whole numbers, from a text with commas, alone or in a list."""
    text = value[0] if isinstance(value, list) and len(value) == 1 else value
    return tuple(text.split(",")) if isinstance(text, str) else value


class _Request(BaseModel):
    """Parameters of a request; unknown ones are refused."""

    model_config = ConfigDict(extra="forbid")

    def with_fields(self, fields: Mapping[str, Sequence[str]]) -> Self:
        """The same, with a form's fields instead of what they replace. Raises UsageError."""
        lists = {name for name, field in type(self).model_fields.items() if "list" in str(field.annotation)}
        given = {name: list(values) if name in lists else values[-1] for name, values in fields.items()}
        try:
            return type(self).model_validate(self.model_dump(exclude_unset=True) | given)
        except ValidationError as error:
            raise describe_invalid(list(error.errors())) from None


class SearchOptions(_Request):
    """How to search: as parameters in the address, or as fields of the form that the photo comes in."""

    top: Annotated[int, Field(ge=1, le=MAX_TOP, description="Answers, at most.")] = 10
    min_score: Annotated[
        float | None, Field(allow_inf_nan=False, description="The least score of an answer, before any re-ranking.")
    ] = None
    only: Annotated[list[str] | None, Field(description="Search only this photo; repeatable.")] = None
    exclude: Annotated[list[str] | None, Field(description="Leave out this photo; repeatable.")] = None
    rerank: Annotated[
        str | None, Field(description=f"A better order for the first answers: {', '.join(RERANKERS)}.")
    ] = None
    candidates: Annotated[
        int | None, Field(ge=1, le=MAX_CANDIDATES, description="Answers that the re-ranking looks at.")
    ] = None
    box: Annotated[
        Box | None,
        BeforeValidator(_box),
        Field(description="Search with a part of the photo: left,top,right,bottom in pixels of the upright photo."),
    ] = None


class AddOptions(_Request):
    """How photos are added."""

    id: Annotated[
        list[str] | None, Field(description="Under which a photo will be found; default: a name made of its content.")
    ] = None
    existing: Annotated[
        Literal["error", "skip", "replace"], Field(description="What becomes of ids that are in the index already.")
    ] = "error"


class MatchOptions(_Request):
    """How two photos are compared."""

    box: Annotated[Box | None, BeforeValidator(_box), Field(description="As in a search.")] = None
    top: Annotated[int, Field(ge=1, le=MAX_TOP, description="Pairs, at most; those of the largest weights.")] = 100


class Removal(_Request):
    """Photos that are to go, in one commit."""

    BODY: ClassVar[dict[str, Any]] = {
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {
                    "schema": {
                        "type": "object",
                        "properties": {"ids": {"type": "array", "items": {"type": "string"}}},
                        "required": ["ids"],
                    }
                }
            },
        }
    }

    ids: list[str]

    @classmethod
    def of(cls, body: bytes) -> Self:
        """What a request's JSON says. Raises UsageError."""
        try:
            return cls.model_validate_json(body)
        except ValidationError as error:
            raise describe_invalid(list(error.errors())) from None


class HitModel(BaseModel):
    """One answer: ``runtime.index.Hit``."""

    id: str
    score: float
    inliers: int | None
    verified: bool | None
    first_score: float | None


class Answers(BaseModel):
    """The answers to a query, best first, and the milliseconds of each stage.

    While shards of an index do not answer, there are answers of the others all the same; ``missing`` names them.
    """

    hits: list[HitModel]
    missing: list[str]
    stranger_score: float | None
    photos: int
    milliseconds: dict[str, float]


class Added(BaseModel):
    """What became of photos: ``runtime.addition.AddReport``."""

    added: list[str]
    skipped: dict[str, str]
    present: list[str]
    aliases: dict[str, str]


class Listing(BaseModel):
    """A part of the ids, in the order of addition, and how many there are."""

    photos: int
    ids: list[str]


class Info(BaseModel):
    """What the server is and can do."""

    photos: int
    has_index: bool
    system: str
    method: str
    image_size: int
    rerankers: list[str]
    shows_photos: bool
    compares: bool
    writes: Literal["open", "token", "no"]
    keeps_added: bool
    is_private: bool
    max_body: int
    stranger_score: float | None
    fault: str | None


def as_models(hits: Sequence[Hit]) -> list[HitModel]:
    """Hits as an answer carries them."""
    return [HitModel(**asdict(hit)) for hit in hits]


def as_added(report: AddReport) -> Added:
    """A report as an answer carries it."""
    return Added(**asdict(report))
