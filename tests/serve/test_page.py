"""Does the page do in a real browser what people will do with it? Its screenshots are for people to look at."""

import base64
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from serve.conftest import KEYS, TENANT

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium, as of Debian's package chromium")
TRANSFER = """async (encoded) => {
  const bytes = Uint8Array.from(atob(encoded), (c) => c.charCodeAt(0));
  const files = new DataTransfer();
  files.items.add(new File([bytes], "pasted.png", { type: "image/png" }));
  document.dispatchEvent(new ClipboardEvent("paste", { clipboardData: files, bubbles: true }));
}"""


@pytest.fixture(scope="module")
def shots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where screenshots go; UNIMIR_SCREENSHOTS says where to keep them."""
    kept = os.environ.get("UNIMIR_SCREENSHOTS")
    directory = Path(kept) if kept else tmp_path_factory.mktemp("screenshots")
    directory.mkdir(parents=True, exist_ok=True)
    return directory


@pytest.fixture
def page(service: str) -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        opened = browser.new_page(viewport={"width": 1280, "height": 900})
        wrong: list[str] = []
        opened.on("pageerror", lambda error: wrong.append(str(error)))
        opened.goto(service)
        opened.evaluate("key => { sessionStorage.key_ = key }", KEYS[TENANT])
        yield opened
        browser.close()
        assert not wrong


def search(page: Any, words: str) -> list[str]:
    page.fill("#query", words)
    with page.expect_response("**/v1/search"):
        page.keyboard.press("Enter")
    page.locator("#status", has_text="Searching").wait_for(state="detached")
    return titles(page)


def titles(page: Any) -> list[str]:
    return [
        f"{card.locator('.score').inner_text()} {card.locator('h2').inner_text()}"
        for card in page.locator(".card").all()
    ]


def test_people_search_see_pictures_and_take_a_chip_away(page: Any, shots: Path) -> None:
    before = search(page, "please help me find a photo of two red cats")
    assert before
    assert page.locator(".card img").count() == len(before)
    assert page.evaluate(
        "[...document.querySelectorAll('.card img')].every(one => one.complete && one.naturalWidth > 0)"
    )
    page.screenshot(path=str(shots / "desktop.png"))
    with page.expect_response("**/v1/search"):
        page.locator("button.chip[data-slot=intent]").click()
    page.locator(".tail", has_text="text").first.wait_for()
    assert titles(page) != before
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "the page scrolls sideways on a phone"
    page.screenshot(path=str(shots / "phone.png"))


def test_a_pasted_picture_finds_its_item(page: Any, collection: Path, shots: Path) -> None:
    (path,) = collection.rglob("catalog.parquet")
    row = pq.read_table(path).to_pylist()[7]
    with page.expect_response("**/v1/search"):
        page.evaluate(TRANSFER, base64.b64encode(row["image"]).decode())
    page.wait_for_selector(".card")
    assert titles(page)[0] == f"1.000 {row['title']}"
    assert page.locator("#picture img").is_visible()
    page.screenshot(path=str(shots / "pasted.png"))


def test_right_to_left_queries_and_examples(page: Any, shots: Path) -> None:
    with page.expect_response("**/v1/search"):
        page.locator("#examples button", has_text="من فضلك").click()
    page.wait_for_selector(".card")
    assert page.evaluate("getComputedStyle(document.querySelector('#query')).direction") == "rtl"
    page.screenshot(path=str(shots / "arabic.png"))


def test_nothing_found_and_mistakes_are_said(page: Any, shots: Path) -> None:
    page.route(
        "**/v1/search",
        lambda route: route.continue_(
            post_data=route.request.post_data.replace(
                '{"parts"', '{"filters":[{"field":"place","equals":"nowhere"}],"parts"'
            )
        ),
    )
    assert search(page, "anything") == []
    assert "Nothing here fits" in page.inner_text("#status.empty")
    page.screenshot(path=str(shots / "nothing.png"))
    page.unroute("**/v1/search")
    search(page, "\u200b\u200b")
    assert "invalid_request" in page.inner_text("#status.wrong")
    page.screenshot(path=str(shots / "wrong.png"))


def test_without_a_key_it_asks_for_one(page: Any) -> None:
    page.evaluate("delete sessionStorage.key_")
    search(page, "two red cats")
    assert page.locator("#door").is_visible()
    page.fill("#key", KEYS[TENANT])
    with page.expect_response("**/v1/search"):
        page.click("#door button")
    page.wait_for_selector(".card")
