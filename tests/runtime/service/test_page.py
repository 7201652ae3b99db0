"""The page in a real browser: Chromium, driven headless by playwright. ``make test-browser`` installs both."""

import base64
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs fastapi: pip install '.[serve]'")

pytest.importorskip("playwright.sync_api", reason="needs playwright: make test-browser installs it")

from playwright.sync_api import sync_playwright

from runtime import Retriever
from runtime.service.options import ServiceOptions
from runtime.service.page import page

from .servers import running

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chromium-headless-shell")
MILLISECONDS = 20_000  # for what is bound to happen
TOKEN = "0123456789abcdef"
DROP = """bytes => {
    const data = Uint8Array.from(atob(bytes), letter => letter.charCodeAt(0)), held = new DataTransfer();
    held.items.add(new File([data], "query.png", {type: "image/png"}));
    return held;
}"""

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def executable() -> str | None:
    return os.environ.get("HOWL_BROWSER") or next(filter(None, map(shutil.which, BROWSERS)), None)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if executable() is None:
        pytest.skip("needs Chromium: make test-browser installs Debian's, or name one in HOWL_BROWSER")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=executable(), args=["--disable-dev-shm-usage"])
        yield browser
        browser.close()


@pytest.fixture
def visit(browser: Any) -> Iterator[Callable[..., Any]]:
    """``visit(url)``: a tab that has loaded the page. No error in it, nor a breach of its policy, goes unseen."""
    faults: list[str] = []
    contexts: list[Any] = []

    def open_tab(url: str, **how: Any) -> Any:
        context = browser.new_context(**how)
        contexts.append(context)
        context.set_default_timeout(MILLISECONDS)
        tab = context.new_page()
        tab.on("pageerror", lambda error: faults.append(str(error)))
        tab.on(
            "console",
            lambda said: (
                faults.append(said.text) if "Security Policy" in said.text or "TypeError" in said.text else None
            ),
        )
        tab.goto(url)
        return tab

    yield open_tab
    for context in contexts:
        context.close()
    assert faults == []


@pytest.fixture
def url(retriever: Retriever, root: Path) -> Iterator[str]:
    with running(retriever, ServiceOptions(photos=root, keeps_added=True, max_body=500_000)) as address:
        yield address


@pytest.fixture
def tab(visit: Callable[..., Any], url: str) -> Any:
    tab = visit(url)
    tab.wait_for_selector("#count b")
    return tab


def ids(tab: Any) -> list[str]:
    return tab.locator(".hit .id").all_text_contents()


def until(tab: Any, condition: str) -> None:
    """Waits for a condition in the page; playwright's own way evaluates texts there, which the policy forbids."""
    deadline = time.monotonic() + MILLISECONDS / 1e3
    while not tab.evaluate(condition):
        assert time.monotonic() < deadline, condition
        time.sleep(0.02)


def drop(tab: Any, photo: Path) -> None:
    held = tab.evaluate_handle(DROP, base64.b64encode(photo.read_bytes()).decode())
    for event in ("dragover", "drop"):
        tab.dispatch_event("#start", event, {"dataTransfer": held})


def test_a_photo_that_is_dropped_finds_itself_first(tab: Any, root: Path) -> None:
    assert tab.inner_text("#count") == "4 photos indexed"
    drop(tab, root / "photo2.png")
    tab.wait_for_selector(".hit")
    assert ids(tab)[0] == "photo2.png"
    assert "verified" in tab.inner_text("#heading")
    assert "ms among 4 photos" in tab.inner_text("#times")
    first = tab.locator(".hit").first
    assert first.locator(".chip").inner_text() == "verified"
    assert first.get_attribute("aria-label").startswith("Answer 1: photo2.png, score ")
    until(tab, "document.querySelector('.hit img').naturalWidth > 0")


def test_a_photo_is_chosen_and_another_one_pasted(tab: Any, root: Path) -> None:
    tab.set_input_files("#file", root / "photo1.png")
    tab.wait_for_selector(".hit")
    assert ids(tab)[0] == "photo1.png"
    held = tab.evaluate_handle(DROP, base64.b64encode((root / "photo3.png").read_bytes()).decode())
    tab.evaluate("held => dispatchEvent(new ClipboardEvent('paste', {clipboardData: held}))", held)
    until(tab, "document.querySelector('.hit .id')?.textContent === 'photo3.png'")


def test_an_answer_opens_with_its_matches(tab: Any, root: Path) -> None:
    drop(tab, root / "photo2.png")
    tab.locator(".hit").first.click()
    tab.wait_for_selector("#lines line", state="attached")
    assert "verified: the same place" in tab.inner_text("#verdict")
    # Every line joins a photo with the other one, within both.
    assert tab.evaluate("""() => {
        const [left, right] = ["left", "right"].map(id => document.getElementById(id).getBoundingClientRect());
        const lines = document.getElementById("lines").getBoundingClientRect();
        const inside = (x, y, box) => x + lines.x >= box.left - 1 && x + lines.x <= box.right + 1
            && y + lines.y >= box.top - 1 && y + lines.y <= box.bottom + 1;
        return [...document.querySelectorAll("#lines .over")].every(line => {
            const at = name => Number(line.getAttribute(name));
            return inside(at("x1"), at("y1"), left) && inside(at("x2"), at("y2"), right);
        });
    }""")
    tab.keyboard.press("ArrowRight")
    until(tab, "document.getElementById('whose').textContent.startsWith('Answer 2')")
    tab.keyboard.press("Escape")
    tab.wait_for_selector("#match", state="hidden")
    # The browser tells the page that the dialog is closed after it has hidden it.
    until(tab, "document.activeElement.getAttribute('aria-label')?.startsWith('Answer 2')")


def test_a_part_of_the_photo_is_searched_with_the_keyboard_alone(tab: Any, root: Path) -> None:
    drop(tab, root / "photo2.png")
    tab.wait_for_selector(".hit")
    before = tab.locator(".hit .score").first.inner_text()
    tab.locator("#part").focus()
    tab.keyboard.press("Enter")
    for key in ("ArrowLeft", "ArrowUp", "Shift+ArrowRight"):
        tab.keyboard.press(key)
    with tab.expect_response(lambda response: "box=" in response.url) as found:
        tab.keyboard.press("Enter")
    assert found.value.status == 200
    assert "box=23%2C17%2C102%2C75" in found.value.url
    until(tab, f"document.querySelector('.hit .score')?.textContent !== '{before}'")
    tab.wait_for_selector(".hit")
    tab.locator(".hit").first.click()
    tab.wait_for_selector("#verdict .quiet, #verdict .chip")
    until(tab, "document.getElementById('left').naturalWidth === 79")


def test_a_part_of_the_photo_is_drawn_with_the_mouse(tab: Any, root: Path) -> None:
    drop(tab, root / "photo2.png")
    tab.wait_for_selector(".hit")
    box = tab.locator("#seen").bounding_box()
    tab.mouse.move(box["x"] + box["width"] / 4, box["y"] + box["height"] / 4)
    tab.mouse.down()
    tab.mouse.move(box["x"] + 2 * box["width"], box["y"] + 2 * box["height"], steps=4)  # as far as the photo reaches
    tab.mouse.up()
    with tab.expect_response(lambda response: "box=" in response.url) as found:
        tab.click("#part")
    assert found.value.url.endswith("box=32%2C24%2C128%2C96")
    with tab.expect_response(lambda response: "/search?" in response.url) as found:
        tab.click("#whole")
    assert "box" not in found.value.url


def test_answers_are_copied(tab: Any, root: Path) -> None:
    tab.context.grant_permissions(["clipboard-read", "clipboard-write"])
    drop(tab, root / "photo0.png")
    tab.wait_for_selector("#copies:not([hidden])")
    tab.click("#json")
    tab.wait_for_selector("#toast:not([hidden])")
    assert '"id": "photo0.png"' in tab.evaluate("navigator.clipboard.readText()")
    tab.click("#curl")
    until(tab, "document.getElementById('toast').textContent.startsWith('curl')")
    command = tab.evaluate("navigator.clipboard.readText()")
    assert command.startswith("curl --data-binary '@query.png' 'http://127.0.0.1:")
    assert "/search?top=20&rerank=spatial'" in command


def test_a_bad_file_is_a_message_and_the_page_goes_on(tab: Any, root: Path, tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("no photo")
    tab.set_input_files("#file", tmp_path / "letter.txt")
    tab.wait_for_selector("#trouble:not([hidden])")
    assert "not an image" in tab.inner_text("#reason")
    (tmp_path / "large.jpg").write_bytes(bytes(600_000))
    tab.set_input_files("#file", tmp_path / "large.jpg")
    until(tab, "document.getElementById('reason').textContent.includes('500 kB at most')")
    tab.set_input_files("#file", root / "photo1.png")
    tab.wait_for_selector(".hit")
    assert tab.is_hidden("#trouble")


def test_a_server_that_is_gone_is_a_message(visit: Callable[..., Any], retriever: Retriever, root: Path) -> None:
    with running(retriever, ServiceOptions(photos=root)) as address:
        tab = visit(address)
        tab.wait_for_selector("#count b")
    drop(tab, root / "photo1.png")
    tab.wait_for_selector("#trouble:not([hidden])")
    assert "does not answer" in tab.inner_text("#reason")
    assert tab.is_visible("#again")


def test_a_photo_is_added_and_found(tab: Any, root: Path) -> None:
    tab.set_input_files("#add", root / "photo5.png")
    until(tab, "document.getElementById('count').textContent === '5 photos indexed'")
    assert "Added as added/" in tab.inner_text("#toast")
    drop(tab, root / "photo5.png")
    tab.wait_for_selector(".hit")
    assert ids(tab)[0].startswith("added/")
    tab.click("#keep")
    until(tab, "document.getElementById('toast').textContent.includes('already')")


def test_html_in_an_id_is_text(tab: Any, retriever: Retriever, root: Path) -> None:
    id_ = "<img src=x onerror=alert(1)>"
    retriever.add([(root / "photo5.png").read_bytes()], ids=[id_])
    drop(tab, root / "photo5.png")
    tab.wait_for_selector(".hit")
    assert ids(tab)[0] == id_
    tab.locator(".hit").first.click()
    tab.wait_for_selector("#verdict :not(.quiet)")
    assert tab.inner_text("#caption") == id_


def test_no_index_yet(visit: Callable[..., Any], engine: Path, root: Path, tmp_path: Path) -> None:
    with (
        Retriever(engine, tmp_path / "none", root=root, device="cpu") as empty,
        running(empty, ServiceOptions(photos=root)) as address,
    ):
        tab = visit(address)
        tab.wait_for_selector("#empty:not([hidden])")
        assert "There is no index yet" in tab.inner_text("#empty")
        assert "howl index" in tab.inner_text("#empty")
        drop(tab, root / "photo0.png")
        tab.wait_for_selector("#trouble:not([hidden])")
        assert "add photos" in tab.inner_text("#reason")
        tab.set_input_files("#add", root / "photo0.png")
        until(tab, "document.getElementById('count').textContent === '1 photo indexed'")
        assert tab.is_hidden("#empty")


def test_a_private_server_asks_for_its_token(visit: Callable[..., Any], retriever: Retriever, root: Path) -> None:
    with running(retriever, ServiceOptions(photos=root, token=TOKEN, is_private=True)) as address:
        tab = visit(address)
        tab.fill("#token", TOKEN)
        tab.keyboard.press("Enter")
        tab.wait_for_selector("#count b")
        drop(tab, root / "photo1.png")
        until(tab, "document.querySelector('.hit img')?.naturalWidth > 0")


@pytest.mark.parametrize("width", [320, 390, 768, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_cut_off_at_any_width(
    visit: Callable[..., Any], url: str, root: Path, width: int, scheme: str
) -> None:
    tab = visit(url, viewport={"width": width, "height": 800}, color_scheme=scheme)
    drop(tab, root / "photo1.png")
    tab.wait_for_selector(".hit")
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    tab.locator(".hit").first.click()
    tab.wait_for_selector("#lines line", state="attached")
    box = tab.locator("#match").bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= width


def test_words_can_be_told_from_their_ground(tab: Any, visit: Callable[..., Any], url: str) -> None:
    """WCAG 2.1 AA asks for a contrast of 4.5."""
    for scheme in ("light", "dark"):
        other = visit(url, color_scheme=scheme)
        for ink, ground in (
            ("--ink", "--ground"),
            ("--ink-2", "--panel"),
            ("--ink-3", "--panel"),
            ("--ink-3", "--ground"),
            ("--accent-ink", "--accent"),
            ("--good", "--good-soft"),
            ("--warn", "--warn-soft"),
            ("--bad", "--bad-soft"),
        ):
            light, dark = sorted((luminance(other, ink), luminance(other, ground)), reverse=True)
            assert (light + 0.05) / (dark + 0.05) >= 4.5, (scheme, ink, ground)


def luminance(tab: Any, name: str) -> float:
    """The relative luminance of a colour of the page (WCAG 2.1)."""
    text = tab.evaluate(f"getComputedStyle(document.documentElement).getPropertyValue('{name}').trim()")
    digits = text.lstrip("#")
    digits = "".join(2 * digit for digit in digits) if len(digits) == 3 else digits
    parts = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_the_page_needs_nothing_of_others() -> None:
    """One file: no address of another server is in it, but the names of XML."""
    text = bytes(page().body).decode()
    assert "https://" not in text
    assert set(part.split('"')[0].split("'")[0] for part in text.split("http://")[1:]) <= {"www.w3.org/2000/svg"}
