"""What a server answers: the same as the retriever behind it."""

import json
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import quote

import cv2
import numpy as np
import pytest

pytest.importorskip("fastapi", reason="needs fastapi: pip install '.[serve]'")

from fastapi.testclient import TestClient

from runtime import IdError, Index, Retriever
from runtime.rerank.comparison import compare
from runtime.service.app import create_app
from runtime.service.options import ServiceOptions

STAGES = {"wait", "decode", "extract", "encode", "search"}


def answers(client: TestClient, photo: Path, **words: Any) -> list[dict[str, Any]]:
    response = client.post("/search", params=words, content=photo.read_bytes())
    assert response.status_code == 200, response.text
    return response.json()["hits"]


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"top": 2},
        {"rerank": "spatial", "candidates": 3},
        {"rerank": "similarity"},
        {"min_score": 0.2},
        {"only": ["photo1.png", "photo2.png"]},
        {"exclude": ["photo0.png"]},
    ],
    ids=str,
)
def test_hits_are_those_of_the_retriever(client: TestClient, retriever: Retriever, root: Path, how: dict) -> None:
    expected = [asdict(hit) for hit in retriever.search(root / "photo0.png", **how)]
    assert answers(client, root / "photo0.png", **how) == expected
    form = {name: value if isinstance(value, list) else str(value) for name, value in how.items()}
    in_form = client.post("/search", files={"photo": (root / "photo0.png").read_bytes()}, data=form)
    assert in_form.json()["hits"] == expected


def test_an_answer_says_how_long_each_stage_took(client: TestClient, root: Path) -> None:
    photo = (root / "photo0.png").read_bytes()
    plain, reranked = client.post("/search", content=photo), client.post("/search?rerank=spatial", content=photo)
    assert set(plain.json()["milliseconds"]) == STAGES
    assert set(reranked.json()["milliseconds"]) == STAGES | {"rerank"}
    assert plain.json()["photos"] == 4


def test_a_part_of_a_photo_is_searched_with(
    client: TestClient, retriever: Retriever, root: Path, make_photo: Callable
) -> None:
    part = np.ascontiguousarray(make_photo(3)[10:80, 20:100])
    expected = [asdict(hit) for hit in retriever.search(part)]
    assert answers(client, root / "photo3.png", box="20,10,100,80") == expected
    assert expected != answers(client, root / "photo3.png")


def test_ids_are_listed_page_by_page(client: TestClient, retriever: Retriever) -> None:
    listed = [client.get("/photos", params={"offset": offset, "limit": 3}).json() for offset in (0, 3, 6)]
    assert [page["ids"] for page in listed] == [retriever.ids()[:3], retriever.ids()[3:], []]
    assert all(page["photos"] == 4 for page in listed)
    assert client.get("/photos/known?id=photo1.png").json() == {"known": True}
    assert client.get("/photos/known?id=../x").json() == {"known": False}


def test_a_photo_that_was_added_is_on_the_disk_and_found(client: TestClient, retriever: Retriever, root: Path) -> None:
    photo = (root / "photo5.png").read_bytes()
    added = client.post("/photos", params={"id": "new/five.png"}, content=photo)
    assert (added.status_code, added.json()["added"]) == (200, ["new/five.png"])
    assert Index(retriever.index_path).ids()[-1] == "new/five.png"
    assert answers(client, root / "photo5.png")[0]["id"] == "new/five.png"
    again = client.post("/photos", params={"id": "new/five.png"}, content=photo)
    assert (again.status_code, again.json()["error"]) == (409, "DuplicateIdError")
    assert client.post("/photos", params={"id": "new/five.png", "existing": "skip"}, content=photo).json()[
        "present"
    ] == ["new/five.png"]
    assert client.delete("/photos/" + quote("new/five.png", safe="")).json() == {"removed": 1}
    assert "new/five.png" not in Index(retriever.index_path).ids()


def test_several_photos_are_added_in_one_form(client: TestClient, retriever: Retriever, root: Path) -> None:
    files = [("photo", (root / "photo4.png").read_bytes()), ("photo", b"no photo")]
    added = client.post("/photos", files=files, data={"id": ["four", "none"]})
    assert added.status_code == 200
    assert added.json()["added"] == ["four"]
    assert list(added.json()["skipped"]) == ["none"]
    assert retriever.ids()[4:] == ["four"]


def test_photos_are_removed_together_or_not_at_all(client: TestClient, retriever: Retriever) -> None:
    refused = client.post("/photos/remove", json={"ids": ["photo0.png", "photo9.png"]})
    assert (refused.status_code, len(retriever)) == (404, 4)
    assert client.post("/photos/remove", json={"ids": ["photo0.png", "photo1.png"]}).json() == {"removed": 2}
    assert retriever.ids() == ["photo2.png", "photo3.png"]


def test_the_first_photo_makes_the_index(engine: Path, root: Path, tmp_path: Path) -> None:
    photo = (root / "photo0.png").read_bytes()
    with (
        Retriever(engine, tmp_path / "none", root=root, device="cpu") as empty,
        TestClient(create_app(empty, ServiceOptions())) as client,
    ):
        nothing = client.post("/search", content=photo)
        assert (nothing.status_code, nothing.json()["error"]) == (404, "MissingError")
        assert "add photos" in nothing.json()["detail"]
        assert client.get("/info").json()["has_index"] is False
        assert client.get("/photos").json() == {"photos": 0, "ids": []}
        assert client.post("/photos?id=a", content=photo).status_code == 200
        assert client.post("/search", content=photo).json()["hits"][0]["id"] == "a"


def test_photos_and_previews_are_shown(client: TestClient, root: Path) -> None:
    original = client.get("/photos/photo1.png/image")
    assert original.content == (root / "photo1.png").read_bytes()
    assert original.headers["content-type"] == "image/png"
    small = client.get("/photos/photo1.png/image?side=480")
    assert small.headers["content-type"] == "image/jpeg"
    assert cv2.imdecode(np.frombuffer(small.content, np.uint8), cv2.IMREAD_COLOR).shape == (96, 128, 3)


def test_a_photo_that_is_sent_has_no_picture_unless_it_is_kept(serve: Callable, root: Path) -> None:
    photo = (root / "photo5.png").read_bytes()
    client = serve()
    (id_,) = client.post("/photos", content=photo).json()["added"]
    assert client.get(f"/photos/{quote(id_, safe='')}/image").status_code == 404
    assert not (root / "added").exists()


def test_a_photo_that_is_kept_is_shown_and_goes_with_its_id(serve: Callable, retriever: Retriever, root: Path) -> None:
    photo, client = (root / "photo5.png").read_bytes(), serve(keeps_added=True)
    (id_,) = client.post("/photos", content=photo).json()["added"]
    assert client.get(f"/photos/{quote(id_, safe='')}/image").content == photo
    assert (root / id_).read_bytes() == photo
    assert client.post("/photos", content=photo).status_code == 409
    assert (root / id_).exists()
    assert client.delete(f"/photos/{quote(id_, safe='')}").status_code == 200
    assert not (root / id_).exists()
    assert client.post("/photos", content=photo[:-30]).status_code == 400
    assert list((root / "added").iterdir()) == []
    assert client.post("/photos", files=[("photo", photo), ("photo", b"none")]).status_code == 400
    assert list((root / "added").iterdir()) == []
    twice = [("photo", photo), ("photo", photo[:-30]), ("photo", photo)]
    both = client.post("/photos", files=twice).json()
    assert both["added"] == [id_]
    assert list(both["skipped"].values()) == ["truncated: the file ends in the middle of the image"]
    assert [file.name for file in (root / "added").iterdir()] == [Path(id_).name]
    assert client.post("/photos/remove", json={"ids": [id_]}).status_code == 200
    assert list((root / "added").iterdir()) == []
    assert client.delete("/photos/photo1.png").status_code == 200
    assert (root / "photo1.png").exists()  # only what callers sent is the server's own
    assert retriever.ids() == ["photo0.png", "photo2.png", "photo3.png"]


def test_photos_that_would_have_no_ids_cannot_be_kept(retriever: Retriever, root: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    with pytest.raises(IdError, match="lies outside the root"):
        create_app(retriever, ServiceOptions(photos=tmp_path / "elsewhere", keeps_added=True))


def test_matches_are_those_of_spatial_verification(client: TestClient, retriever: Retriever, root: Path) -> None:
    photo = root / "photo2.png"
    told = client.post("/photos/photo2.png/matches", content=photo.read_bytes()).json()
    seen = compare(retriever.encoder, photo, photo, 100)
    assert seen.inliers > 10
    assert (told["inliers"], told["verified"], told["score"]) == (seen.inliers, seen.verified, seen.score)
    assert told["query"] == told["photo"] == {"width": 128, "height": 96}
    np.testing.assert_allclose(
        told["pairs"], np.hstack([seen.query_ends, seen.image_ends, seen.weights[:, None]]), atol=1e-4
    )
    ends = np.array(told["pairs"])
    assert np.median(np.hypot(*(ends[:, :2] - ends[:, 2:4]).T)) == 0  # a photo and itself
    picture = client.post("/photos/photo2.png/matches.jpg", content=photo.read_bytes())
    assert picture.headers["content-type"] == "image/jpeg"
    drawn = cv2.imdecode(np.frombuffer(picture.content, np.uint8), cv2.IMREAD_COLOR)
    assert drawn.shape[0] == 640
    assert client.post("/photos/photo9.png/matches", content=photo.read_bytes()).status_code == 404


def test_commits_of_another_process_are_taken_up(
    serve: Callable, engine: Path, retriever: Retriever, root: Path
) -> None:
    client = serve(refresh=0.02)
    with Retriever(engine, retriever.index_path, root=root, device="cpu") as other:
        other.add([root / "photo5.png"])
    wait_for(lambda: answers(client, root / "photo5.png")[0]["id"] == "photo5.png")
    assert "howl_index_photos 5" in client.get("/metrics").text


def test_an_index_that_is_swapped_in_is_taken_up_and_a_wrong_one_is_told(
    serve: Callable, engine: Path, retriever: Retriever, root: Path, tmp_path: Path
) -> None:
    client = serve(refresh=0.02)
    with Retriever(engine, tmp_path / "new", root=root, device="cpu") as other:
        other.add([root / "photo4.png"])
    Index.replace(retriever.index_path, tmp_path / "new")
    wait_for(lambda: client.get("/photos").json()["ids"] == ["photo4.png"])
    assert client.get("/readyz").status_code == 200
    retriever.index_path.rename(tmp_path / "gone")
    wait_for(lambda: client.get("/readyz").status_code == 503)
    assert answers(client, root / "photo4.png")[0]["id"] == "photo4.png"  # searches go on
    assert client.post("/photos?id=x", content=(root / "photo1.png").read_bytes()).status_code == 503
    assert "moved or deleted" in client.get("/info").json()["fault"]
    assert str(tmp_path) not in client.get("/info").text
    (tmp_path / "gone").rename(retriever.index_path)
    wait_for(lambda: client.get("/readyz").status_code == 200)


def test_metrics_count_requests_stages_and_photos(client: TestClient, root: Path) -> None:
    answers(client, root / "photo0.png")
    client.post("/search", content=b"none")
    client.get("/nowhere/at/all")
    text = client.get("/metrics").text
    for line in (
        'howl_requests_total{endpoint="/search",status="200"} 1.0',
        'howl_requests_total{endpoint="/search",status="400"} 1.0',
        'howl_requests_total{endpoint="other",status="404"} 1.0',
        'howl_stage_seconds_count{stage="extract"} 1.0',
        "howl_search_queue_length 0.0",
        "howl_index_photos 4.0",
    ):
        assert line in text, line


def test_the_interface_is_described(client: TestClient) -> None:
    schema = client.get("/openapi.json").json()
    assert json.dumps(schema)
    for path in ("/search", "/photos", "/photos/{id}", "/photos/{id}/image", "/photos/{id}/matches"):
        assert path in schema["paths"]
    page = client.get("/docs")
    assert "POST /search" in page.text
    assert "<script" not in page.text


def wait_for(condition: Callable[[], bool]) -> None:
    """Fails unless something that is bound to happen does within ten seconds."""
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
