"""The page, as a person uses it, in headless Chromium.

The server is real; the models recite known texts, one of them full of markup. Chromium's own logs tell every
request the page makes and every error it prints.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from served import reciting, running

from textus.serving.app import PAGE

pytestmark = pytest.mark.browser

WEB = Path(__file__).resolve().parent.parent / "textus" / "serving" / "web"
MARKUP = "<script>document.title='owned'</script><img src=x onerror=alert(1)>"


def chromium() -> str:
    """Where the browser is; in CI its absence is a failure, elsewhere a reason to skip."""
    result = shutil.which("chromium") or shutil.which("google-chrome")
    if result and shutil.which("chromedriver"):
        return result
    reason = "Chromium and its driver are not installed: apt-get install chromium chromium-driver"
    if os.environ.get("CI", "").lower() in ("1", "true"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    models = [
        reciting("story", "once upon a time ", pause=0.01),
        reciting("markup", MARKUP),
        reciting("talker", "Hello, world! ", chat=True, pause=0.01),
        reciting("endless", "tick tock ", pause=0.03),
    ]
    with running(*models) as address:
        yield address


class Page:
    """A browser window, and the few things a person does in it."""

    def __init__(self, driver: Any, address: str) -> None:
        self.driver, self.address = driver, address

    def find(self, css: str) -> Any:
        return self.driver.find_element("css selector", css)

    def text(self, css: str) -> str:
        return self.find(css).get_property("textContent")

    def count(self, css: str) -> int:
        digits = re.sub(r"\D", "", self.text(css))
        return int(digits) if digits else 0

    def until(self, condition: Callable[[], Any], seconds: float = 10) -> Any:
        from selenium.webdriver.support.ui import WebDriverWait

        return WebDriverWait(self.driver, seconds, poll_frequency=0.02).until(lambda _: condition())

    def model(self, name: str) -> None:
        from selenium.webdriver.support.ui import Select

        Select(self.find("#model")).select_by_value(name)

    def type(self, css: str, text: str) -> None:
        self.find(css).clear()
        self.find(css).send_keys(text)

    def fill(self, css: str, value: Any) -> None:
        """Set a setting as if typed: sliders cannot be typed into."""
        script = "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input'))"
        self.driver.execute_script(script, self.find(css), str(value))

    def done(self) -> None:
        self.until(lambda: not self.find("form:not([hidden]) .stop").is_enabled())

    def wait_ready(self) -> None:
        self.until(lambda: self.find("#model").is_enabled())


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    binary = chromium()
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = binary
    profile = tmp_path_factory.mktemp("chromium")
    for flag in (
        "--headless --no-sandbox --disable-gpu --disable-dev-shm-usage --disable-background-networking "
        f"--disable-component-update --disable-sync --no-first-run --lang=en-US --user-data-dir={profile}"
    ).split():
        options.add_argument(flag)
    options.add_experimental_option("prefs", {"intl.accept_languages": "en-US,en"})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    service = webdriver.ChromeService(shutil.which("chromedriver"))
    driver = webdriver.Chrome(options=options, service=service)
    driver.set_window_size(1200, 900)
    yield driver
    driver.quit()


@pytest.fixture
def page(driver: Any, address: str) -> Iterator[Page]:
    """The page, fresh; afterwards nothing may have been printed as an error, nor asked of another host."""
    page = Page(driver, address)
    driver.get(address)
    driver.execute_script("localStorage.clear()")
    driver.get(address)
    page.wait_ready()
    driver.get_log("browser")
    yield page
    assert outside(driver.get_log("performance"), address) == []
    assert [entry["message"] for entry in driver.get_log("browser")] == []


def outside(log: list[dict[str, Any]], address: str) -> list[str]:
    """Every request a tab made that was not to the server."""
    messages = [json.loads(entry["message"])["message"] for entry in log]
    sent = [
        message["params"]["request"]["url"]
        for message in messages
        if message["method"] == "Network.requestWillBeSent"
    ]
    return [text for text in sent if not text.startswith(address)]


@pytest.mark.promise("Server", "The page needs no other host and shows a model's markup as text")
def test_a_request_to_another_host_would_be_seen(driver: Any, address: str) -> None:
    """The fault the fixture must catch; the page's own policy stops it before it leaves."""
    driver.get(address)
    driver.get_log("performance")
    driver.get_log("browser")
    driver.execute_script(
        "const i = document.createElement('img'); i.src = 'http://127.0.0.1:9/x'; document.body.append(i)"
    )
    Page(driver, address).until(lambda: "Content Security Policy" in str(driver.get_log("browser")))
    driver.get("data:text/html,<img src=http://127.0.0.1:9/y>")
    assert "http://127.0.0.1:9/y" in outside(driver.get_log("performance"), address)


def test_continues_a_text_with_counts_and_speed(page: Page) -> None:
    page.model("story")
    page.fill("#max-tokens", 60)
    page.fill("#seed", 7)
    page.type("#prompt", "abcdefg")
    page.find("#write .go").click()
    lengths: set[int] = set()

    def finished() -> bool:
        lengths.add(len(page.text("#written")))
        return len(page.text("#written")) == 60

    page.until(finished)
    assert len(lengths) > 3, "the text did not come bit by bit"
    page.done()
    assert page.text("#given") == "abcdefg"
    assert page.text("#written") == ("once upon a time " * 5)[7:67]
    assert (page.count("#prompt-tokens"), page.count("#completion-tokens")) == (7, 60)
    assert page.count("#speed") > 5
    assert page.text("#used-seed") == "7"
    assert page.text("#status") == "The maximum number of new tokens was reached."


def test_stop_ends_it_here_and_at_the_server(page: Page) -> None:
    import httpx

    page.model("endless")
    page.fill("#max-tokens", 5000)
    page.type("#prompt", "tick")
    page.find("#write .go").click()
    page.until(lambda: len(page.text("#written")) > 5)
    assert not page.find("#write .go").is_enabled()
    page.find("#write .stop").click()
    page.done()
    text, n = page.text("#written"), page.count("#completion-tokens")
    assert 5 < len(text) == n < 5000
    assert page.text("#status") == "Stopped."
    page.until(lambda: httpx.get(f"{page.address}/health").json()["open"] == 0)
    assert page.text("#written") == text
    page.find("#keep").click()
    assert page.find("#prompt").get_property("value") == "tick" + text
    assert page.text("#output") == ""


def test_markup_from_a_model_is_shown_as_text(page: Page) -> None:
    page.model("markup")
    page.fill("#max-tokens", 2 * len(MARKUP))
    page.type("#prompt", "<b>x")
    page.find("#write .go").click()
    page.until(lambda: len(page.text("#written")) == 2 * len(MARKUP))
    page.done()
    assert MARKUP in page.text("#written")
    assert page.driver.title == "Textus"
    assert page.driver.find_elements("css selector", "#output script, #output img, #output b") == []


def test_chat(page: Page) -> None:
    page.model("talker")
    page.fill("#max-tokens", 28)
    page.type("#message", "Hi\ue007")  # Enter
    page.until(lambda: len(page.text("#messages li:last-child div")) == 28)
    page.done()
    assert page.text("#messages li.user div") == "Hi"
    assert page.find("#message").get_property("value") == ""
    first = page.count("#prompt-tokens")
    page.type("#message", "And then?")
    page.find("#talk .go").click()
    page.until(lambda: len(page.driver.find_elements("css selector", "#messages li")) == 4)
    page.done()
    assert page.count("#prompt-tokens") > first + 28, "the conversation was not sent along"
    page.find("#new-chat").click()
    assert page.text("#messages") == ""


def test_a_chat_model_continues_texts_too_and_a_base_model_has_no_chat(page: Page) -> None:
    page.model("talker")
    assert page.find("#talk").is_displayed()
    page.find("#modes input[value=write]").find_element("xpath", "..").click()
    assert page.find("#write").is_displayed()
    assert not page.find("#talk").is_displayed()
    page.model("story")
    assert not page.find("#modes").is_displayed()


def test_errors_are_reported_and_nothing_typed_is_lost(page: Page) -> None:
    page.model("story")
    page.type("#prompt", "my long text")
    page.fill("#max-tokens", 0)
    page.find("#write .go").click()
    assert "1 to 8,192" in page.text("#error")
    page.fill("#max-tokens", 10)
    page.driver.execute_script("document.querySelector('#model').options[0].value = 'gone'")
    page.find("#write .go").click()
    page.until(lambda: "model 'gone' not found" in page.text("#error"))
    assert page.find("#prompt").get_property("value") == "my long text"
    errors = page.driver.get_log("browser")  # the browser itself prints a refused request
    assert len(errors) == 1
    assert "404" in errors[0]["message"]
    page.driver.refresh()
    page.wait_ready()
    assert page.find("#prompt").get_property("value") == "my long text"


def test_a_failed_chat_gives_the_question_back(page: Page) -> None:
    page.model("talker")
    page.driver.execute_script("window.fetch = () => Promise.reject(new TypeError('offline'))")
    page.type("#message", "What is it?")
    page.find("#talk .go").click()
    page.until(lambda: "Cannot reach the server" in page.text("#error"))
    assert page.find("#message").get_property("value") == "What is it?"
    assert page.text("#messages") == ""


def test_a_broken_stream_keeps_what_came(page: Page) -> None:
    page.model("story")
    script = """
        const chunk = {choices: [{text: "half"}], usage: {prompt_tokens: 1, completion_tokens: 1}};
        window.fetch = async () => new Response(`data: ${JSON.stringify(chunk)}\\n\\n`);
    """
    page.driver.execute_script(script)
    page.find("#write .go").click()
    page.until(lambda: "connection was lost" in page.text("#error"))
    assert page.text("#written") == "half"


def test_two_languages(page: Page) -> None:
    assert page.text("#write .go") == "Continue"
    page.find("#language").click()
    assert page.text("#write .go") == "续写"
    assert page.find("html").get_attribute("lang") == "zh-CN"
    assert page.find("#prompt").get_attribute("placeholder") == "从前有座山……"
    page.driver.refresh()
    page.wait_ready()
    assert page.text("#write .go") == "续写", "the choice is not remembered"
    page.find("#language").click()
    assert page.text("#write .go") == "Continue"


def test_a_chinese_browser_gets_chinese(page: Page) -> None:
    override = {"userAgent": "test", "acceptLanguage": "zh-CN"}
    page.driver.execute_cdp_cmd("Network.setUserAgentOverride", override)
    try:
        page.driver.refresh()
        page.wait_ready()
        assert page.text("#write .go") == "续写"
    finally:
        page.driver.execute_cdp_cmd("Network.setUserAgentOverride", {**override, "acceptLanguage": "en-US"})


def test_everything_one_can_use_has_a_name(page: Page) -> None:
    for chosen in ("story", "talker"):
        page.model(chosen)
        for element in page.driver.find_elements(
            "css selector", "button, input, select, textarea, [role=log]"
        ):
            if element.is_displayed():
                assert element.accessible_name, element.get_attribute("outerHTML")


def test_fits_a_phone(page: Page) -> None:
    page.driver.set_window_size(500, 800)  # the narrowest window Chromium makes; the viewport is set below
    metrics = {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}
    page.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        page.driver.refresh()
        page.wait_ready()
        page.find("#language").click()
        for chosen in ("story", "talker"):
            page.model(chosen)
            assert page.driver.execute_script("return document.documentElement.scrollWidth") <= 360
    finally:
        page.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        page.driver.set_window_size(1200, 900)


# ── the files themselves ───────────────────────────────────────────────────────────────────────


def test_the_files_refer_to_nothing_outside_and_never_parse_text_as_html() -> None:
    assert sorted(name for name, _ in PAGE.values()) == sorted(path.name for path in WEB.iterdir())
    for path in WEB.iterdir():
        text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?:|//\w+\.|@import|url\(", text), path
        assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(", text), path


def test_both_languages_show_the_same_things() -> None:
    text = (WEB / "words.js").read_text(encoding="utf-8")
    english, chinese = text.split("  zh: {")
    keys = [re.findall(r"\b(\w+): \"", part) for part in (english, chinese)]
    assert keys[0] == keys[1]
    used = set(re.findall(r'data-(?:text|title|label|placeholder)="(\w+)"', (WEB / "index.html").read_text()))
    used |= set(re.findall(r'(?:say|status)\("(\w+)"', (WEB / "app.js").read_text()))
    assert used <= set(keys[0])
