"""What a server refuses: each bad request has a clear status and one line, and tells nothing of the inside."""

import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs fastapi: pip install '.[serve]'")

from fastapi.testclient import TestClient
from starlette.datastructures import Headers

from runtime import Retriever, errors
from runtime.service.guard import check_names, hostname
from runtime.service.options import ServiceOptions, access, read_token
from runtime.service.refusals import STATUSES, RefusedError, status_of, without_path

from .servers import Lines

TOKEN = "0123456789abcdef"


def png_bomb(side: int) -> bytes:
    """A PNG of some kB that says that it has side × side pixels, and has them."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes((side // 8 + 1) * side), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ({"top": "0"}, "top: "),
        ({"top": "many"}, "top: "),
        ({"tpo": "3"}, "tpo: "),
        ({"rerank": "magic"}, "rerank='magic': this server has spatial"),
        ({"candidates": "5"}, "candidates: only a re-ranking"),
        ({"min_score": "nan"}, "min_score: "),
        ({"box": "1,2,3"}, "box"),
        ({"box": "0,0,9,9"}, "box=0,0,9,9: 32×32 pixels"),
        ({"box": "900,900,990,990"}, "must lie in the photo, which has 128×96"),
    ],
)
def test_a_wrong_parameter_is_400_and_named(client: TestClient, root: Path, words: dict[str, str], line: str) -> None:
    response = client.post("/search", params=words, content=(root / "photo0.png").read_bytes())
    assert (response.status_code, response.json()["error"]) == (400, "UsageError")
    assert line in response.json()["detail"]


@pytest.mark.parametrize(
    ("body", "status", "line"),
    [
        (b"", 400, "one photo is needed"),
        (b"<html>", 400, "not an image"),
        (b"\x89PNG\r\n\x1a\n", 400, "truncated"),
        (png_bomb(20_000), 400, "20000×20000 pixels, more than 1 million"),
        (bytes(3_000_000), 413, "more than 2 MB"),
    ],
    ids=["empty", "html", "half", "bomb", "large"],
)
@pytest.mark.parametrize("path", ["/search", "/photos?id=new", "/photos/photo0.png/matches"])
def test_a_bad_photo_has_its_status(
    serve: Callable, retriever: Retriever, path: str, body: bytes, status: int, line: str
) -> None:
    client = serve(max_body=2_000_000)
    for content in ({"content": body}, {"files": {"photo": body}} if path == "/search" else {"content": body}):
        response = client.post(path, **content)
        assert response.status_code == status
        assert line in response.json()["detail"]
    assert retriever.ids() == [f"photo{i}.png" for i in range(4)]


def test_what_says_that_it_is_a_form_and_is_none(client: TestClient) -> None:
    for kind, body in [
        ("multipart/form-data", b"x"),
        ("multipart/form-data; boundary=a", b"nothing of the kind"),
        (
            "multipart/form-data; boundary=a",
            b'--a\r\nContent-Disposition: form-data; name="other"; filename="a"\r\n\r\nx\r\n--a--\r\n',
        ),
    ]:
        response = client.post("/search", content=body, headers={"content-type": kind})
        assert response.status_code == 400, response.text
    assert client.post("/photos/remove", content=b"{").status_code == 400
    assert client.post("/photos/remove", json={"ids": "photo0.png"}).status_code == 400


@pytest.mark.parametrize(
    "id_", ["../x.png", "/etc/passwd", "a/../../b", "a//b", "./a", "a\\..\\b", "", "a\0b", "a\nb", "x" * 1001]
)
def test_an_id_that_leads_elsewhere_is_refused(client: TestClient, root: Path, id_: str) -> None:
    response = client.post("/photos", params={"id": id_}, content=(root / "photo5.png").read_bytes())
    assert (response.status_code, response.json()["error"]) == (400, "UsageError")


@pytest.mark.parametrize(
    "path", ["..%2F..%2Fetc%2Fpasswd", "%2Fetc%2Fpasswd", "photo9.png", "%00", "%ff", "photo0.png%00.jpg"]
)
def test_no_path_in_an_address_reaches_a_file(client: TestClient, path: str) -> None:
    for method, end in (("GET", "/image"), ("GET", "/image?side=480"), ("DELETE", ""), ("POST", "/matches")):
        response = client.request(method, f"/photos/{path}{end}")
        assert response.status_code in (400, 404), response.text
        assert response.json()["error"] in ("UnknownIdError", "UsageError")


def test_an_id_of_a_caller_never_opens_a_file_of_the_server(client: TestClient, root: Path, tmp_path: Path) -> None:
    """Also if a file lies where the id would lead, in the folder that is shown."""
    photo = (root / "photo5.png").read_bytes()
    (root / "secret.png").write_bytes(photo)
    assert client.post("/photos?id=secret.png", content=photo).status_code == 200
    assert client.get("/photos/secret.png/image").status_code == 404


def test_links_out_of_the_folder_and_files_that_are_no_images_are_not_shown(
    client: TestClient, retriever: Retriever, root: Path, tmp_path: Path
) -> None:
    outside = tmp_path / "outside.png"
    outside.write_bytes((root / "photo4.png").read_bytes())
    (root / "link.png").symlink_to(outside)
    retriever.add([root / "link.png"])
    assert client.get("/photos/link.png/image").status_code == 404
    (root / "photo0.png").write_text("<script>alert(1)</script>")
    for path in ("/photos/photo0.png/image", "/photos/photo0.png/image?side=480"):
        assert client.get(path).status_code in (400, 404)


def test_html_in_an_id_stays_text(client: TestClient, root: Path) -> None:
    id_ = "<img src=x onerror=alert(1)>"
    assert client.post("/photos", params={"id": id_}, content=(root / "photo5.png").read_bytes()).status_code == 200
    for response in (
        client.get("/photos"),
        client.post("/photos", params={"id": id_}, content=(root / "photo5.png").read_bytes()),
    ):
        assert response.headers["content-type"] == "application/json"
        assert response.headers["x-content-type-options"] == "nosniff"


def test_every_answer_has_the_headers_and_none_lets_another_site_read_it(client: TestClient) -> None:
    for path in ("/", "/docs", "/info", "/photos/photo0.png/image", "/nowhere", "/metrics"):
        headers = client.get(path, headers={"Origin": "https://evil.example"}).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert "unsafe" not in headers["content-security-policy"]
        assert "default-src 'none'" in headers["content-security-policy"]
        assert not [name for name in headers if name.startswith("access-control")]
        assert "server" not in headers


def test_a_fault_of_the_program_tells_nothing(
    client: TestClient, retriever: Retriever, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("/secret/place")

    monkeypatch.setattr(retriever, "search", fail)
    response = client.post("/search", content=(root / "photo0.png").read_bytes())
    assert response.status_code == 500
    assert "secret" not in response.text
    assert "Traceback" not in response.text


def test_a_fault_of_the_machine_is_told_without_its_place(
    client: TestClient, retriever: Retriever, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for error, status in ((errors.DamagedError, 500), (errors.StorageError, 507), (errors.WriterBusyError, 503)):

        def fail(*_: object, error: type[errors.HowlError] = error, **__: object) -> None:
            raise error(f"{retriever.index_path}: broken")

        monkeypatch.setattr(retriever, "add", fail)
        response = client.post("/photos?id=x", content=(root / "photo5.png").read_bytes())
        assert (response.status_code, response.json()["error"]) == (status, error.__name__)
        assert str(retriever.index_path) not in response.text
        assert ("retry-after" in response.headers) == (status == 503)


def test_every_error_has_a_status() -> None:
    assert {kind.__name__: status_of(kind("x")) for kind in STATUSES} == {
        "UsageError": 400,
        "ImageError": 400,
        "IdError": 400,
        "UnknownIdError": 404,
        "DuplicateIdError": 409,
        "WriterBusyError": 503,
        "ReplacedError": 503,
        "ServiceError": 503,
        "StorageError": 507,
    }
    assert status_of(errors.DamagedError("x")) == status_of(errors.DeviceError("x")) == 500


def test_a_request_is_one_line_of_the_log(client: TestClient, log: Lines) -> None:
    client.post("/search?top=2", content=b"none")
    client.get("/photos/a%0ab/image")
    client.get("/healthz")
    first, second = log.lines
    assert "POST /search 400" in first
    assert first.endswith("not an image of a format that howl reads")
    assert "\n" not in second


# ---------------------------------------------------------------------------------------------------- who may call


def test_writers_need_the_token_and_readers_only_in_private(serve: Callable, root: Path) -> None:
    photo, right = (root / "photo5.png").read_bytes(), {"Authorization": f"Bearer {TOKEN}"}
    for is_private in (False, True):
        client = serve(token=TOKEN, is_private=is_private)
        for headers in (
            {},
            {"Authorization": "Bearer wrong"},
            {"Authorization": f"Basic {TOKEN}"},
            {"Authorization": "Bearer é".encode()},
        ):
            refused = client.post("/photos?id=x", content=photo, headers=headers)
            assert (refused.status_code, refused.headers["www-authenticate"]) == (401, 'Bearer realm="howl"')
            assert client.delete("/photos/photo0.png", headers=headers).status_code == 401
            assert client.post("/photos/remove", json={"ids": ["photo0.png"]}, headers=headers).status_code == 401
            reading = [client.get(path, headers=headers) for path in ("/info", "/photos/photo0.png/image", "/metrics")]
            reading.append(client.post("/search", content=photo, headers=headers))
            assert {response.status_code for response in reading} == {401 if is_private else 200}
        for open_path in ("/", "/healthz", "/readyz"):
            assert client.get(open_path).status_code == 200
        assert client.post("/search", content=photo, headers=right).status_code == 200
        assert client.post("/photos?id=x&existing=replace", content=photo, headers=right).status_code == 200


def test_a_server_that_only_reads(serve: Callable, root: Path) -> None:
    client = serve(may_write=False)
    assert client.post("/photos?id=x", content=(root / "photo5.png").read_bytes()).status_code == 403
    assert client.delete("/photos/photo0.png").status_code == 403
    assert client.get("/info").json()["writes"] == "no"


@pytest.mark.parametrize(
    ("method", "headers", "status"),
    [
        ("GET", {"host": "localhost:8000"}, 200),
        ("GET", {"host": "[::1]:8000"}, 200),
        ("GET", {"host": "evil.example"}, 421),
        ("GET", {}, 421),
        ("GET", {"host": "localhost", "sec-fetch-site": "cross-site"}, 200),  # a link to the page
        ("POST", {"host": "localhost:8000", "origin": "http://localhost:8000"}, 200),
        ("POST", {"host": "localhost:8000", "origin": "https://evil.example"}, 403),
        ("POST", {"host": "localhost:8000", "origin": "null"}, 403),
        ("DELETE", {"host": "localhost", "sec-fetch-site": "cross-site"}, 403),
        ("POST", {"host": "localhost", "sec-fetch-site": "same-site"}, 403),
        ("POST", {"host": "localhost", "origin": "https://photos.example", "sec-fetch-site": "same-origin"}, 200),
    ],
)
def test_pages_of_other_sites_send_nothing(method: str, headers: dict[str, str], status: int) -> None:
    try:
        check_names(Headers(headers), method, frozenset({"localhost", "::1"}))
        found = 200
    except RefusedError as error:
        found = error.status
    assert found == status


def test_a_host_that_is_none_has_no_name() -> None:
    assert [hostname(host) for host in ("a:80", "[::1]:80", "[::", "")] == ["a", "::1", "", ""]


@pytest.mark.parametrize(
    ("host", "allowed", "token", "hosts", "may_write"),
    [
        ("127.0.0.1", [], None, {"localhost", "127.0.0.1", "::1"}, True),
        ("127.0.0.1", ["photos.example"], None, {"localhost", "127.0.0.1", "::1", "photos.example"}, False),
        ("127.0.0.1", ["photos.example"], TOKEN, {"localhost", "127.0.0.1", "::1", "photos.example"}, True),
        ("0.0.0.0", [], None, None, False),
        ("0.0.0.0", [], TOKEN, None, True),
    ],
)
def test_who_is_elsewhere_writes_only_with_a_token(
    host: str, allowed: list[str], token: str | None, hosts: set[str] | None, may_write: bool
) -> None:
    assert access(host, frozenset(allowed), token) == (hosts, may_write)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("short", "16 characters"),
        ("two words of a token", "without blanks"),
        ("ä" * 20, "a line of ASCII"),
        (f"{TOKEN}\n{TOKEN}", "one line"),
    ],
)
def test_a_file_without_a_token_is_refused(tmp_path: Path, text: str, line: str) -> None:
    file = tmp_path / "token"
    file.write_text(text, encoding="utf-8")
    file.chmod(0o600)
    with pytest.raises(errors.UsageError, match=line):
        read_token(file)


def test_a_token_that_all_can_read_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    file.chmod(0o644)
    with pytest.raises(errors.UsageError, match="chmod"):
        read_token(file)
    file.chmod(0o640)
    assert read_token(file) == TOKEN


@pytest.mark.parametrize(
    "changes",
    [{"keeps_added": True}, {"is_private": True}, {"timeout": 0}, {"queue": 0}, {"photos": Path("nowhere")}],
    ids=str,
)
def test_options_that_contradict_each_other(changes: dict[str, Any]) -> None:
    with pytest.raises(errors.HowlError):
        ServiceOptions(**changes)


def test_a_bad_photo_of_a_form_is_told_by_its_place(client: TestClient, root: Path) -> None:
    good = (root / "photo0.png").read_bytes()
    response = client.post("/photos", files=[("photo", good), ("photo", b"no photo"), ("photo", good)])
    assert response.status_code == 400
    assert response.json()["detail"].startswith("photo 2 of 3: image of 8 bytes: not an image")
    assert response.json()["detail"].endswith("nothing was added")


@pytest.mark.parametrize("path", ["photos.index", "data/photos.index", "/data/photos.index"])
def test_no_line_says_where_the_index_lies(path: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    whole = str(Path(path).absolute())
    assert without_path(f"{path}: only: x is not in it", path) == "only: x is not in it"
    assert without_path(f"{whole}: only: x is not in it", path) == "only: x is not in it"
    assert without_path(f"no segment {whole}/a", path) == "no segment the index/a"


def test_a_load_balancer_may_ask_without_a_body(client: TestClient) -> None:
    for path in ("/", "/healthz", "/readyz"):
        response = client.head(path)
        assert (response.status_code, response.content) == (200, b"")
