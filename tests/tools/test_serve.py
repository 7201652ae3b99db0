"""The command ``howl serve``: what it makes of its options. The server itself is tested in tests/runtime/service."""

from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="needs fastapi: pip install '.[serve]'")

from runtime import Retriever, UsageError
from runtime.service.options import ServiceOptions
from tools import serve


@pytest.fixture
def retriever(engine: Path, photos: list[str], tmp_path: Path) -> Retriever:
    root = Path(photos[0]).parent
    retriever = Retriever(engine, tmp_path / "index", root=root, device="cpu")
    retriever.add(photos[:2])
    return retriever


def test_options_reach_the_server(
    engine: Path, photos: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a token, on all addresses, behind a name."""
    token, seen = tmp_path / "token", {}
    token.write_text("0123456789abcdef\n")
    token.chmod(0o600)

    def create_app(retriever: Retriever, options: ServiceOptions) -> None:
        seen.update(root=retriever.root, pixels=retriever.encoder.max_pixels, options=options)

    monkeypatch.setattr(serve, "create_app", create_app)
    monkeypatch.setattr(serve, "serve", lambda app, listening, timeout, say: seen.update(timeout=timeout))
    root = Path(photos[0]).parent
    words = f"{engine} --photos {root} --port 0 --allow-host photos.example --token-file {token} --private"
    serve.main(
        [*words.split(), "--max-body", "3", "--max-pixels", "7", "--queue", "5", "--workers", "2", "--timeout", "4"]
    )
    options = seen["options"]
    assert (seen["root"], seen["pixels"], seen["timeout"]) == (root, 7_000_000, 4.0)
    assert (options.token, options.is_private, options.may_write) == ("0123456789abcdef", True, True)
    assert options.hosts >= {"localhost", "photos.example"}
    assert (options.max_body, options.queue, options.workers, options.timeout) == (3_000_000, 5, 2, 4.0)
    assert "no index yet" in capsys.readouterr().err


def test_who_starts_a_server_is_told_what_will_not_work(
    retriever: Retriever, photos: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = Path(photos[0]).parent
    assert serve.notes(retriever, ServiceOptions(photos=root)) == []
    (line,) = serve.notes(retriever, ServiceOptions(may_write=False))
    assert "--token-file" in line
    moved = Retriever(retriever.encoder.path, retriever.index_path, root=tmp_path, device="cpu")
    (line,) = serve.notes(moved, ServiceOptions(photos=tmp_path))
    assert line.startswith(f"warning: no photo at {tmp_path / 'photo0.png'}")
    assert line.endswith("name that folder with --root")
    monkeypatch.chdir(root)
    (line,) = serve.notes(moved, ServiceOptions(photos=tmp_path))
    assert line.endswith("add --root .")


def test_a_file_is_no_place_for_an_index(engine: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no index")
    with (
        Retriever(engine, tmp_path / "file", device="cpu") as retriever,
        pytest.raises(UsageError, match="file: a file, and an index is a folder"),
    ):
        serve.notes(retriever, ServiceOptions())
