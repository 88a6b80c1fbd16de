"""The page in a real browser: nothing is refused, nothing is asked of the network, and it fits a phone."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from discretion.report import page
from tests.report_runs import flip, folder

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars",
)  # fmt: skip

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None or DRIVER is None, reason="needs chromium and chromedriver on this machine"),
]


class Browser:
    """Chromium over the WebDriver protocol."""

    def __init__(self, port: int, profile: Path) -> None:
        self._at = f"http://127.0.0.1:{port}"
        options = {"binary": CHROMIUM, "args": [*FLAGS, f"--user-data-dir={profile}"]}
        logs = {"browser": "ALL", "performance": "ALL"}
        wanted = {"browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": logs}
        session = self.call("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
        self._at += f"/session/{session['sessionId']}"

    def call(self, method: str, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._at + path, data, {"Content-Type": "application/json"}, method=method)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)["value"]

    def open(self, path: Path, *, width: int = 1100, scheme: str = "light") -> None:
        self.devtools("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        self.devtools("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.call("POST", "/url", {"url": path.as_uri()})

    def devtools(self, command: str, **params: Any) -> Any:
        return self.call("POST", "/goog/cdp/execute", {"cmd": command, "params": params})

    def complaints(self) -> list[str]:
        return [entry["message"] for entry in self.call("POST", "/se/log", {"type": "browser"})]

    def asked_for(self) -> set[str]:
        """Scheme of every address that was asked for since the last call."""
        events = [json.loads(e["message"])["message"] for e in self.call("POST", "/se/log", {"type": "performance"})]
        asked = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
        return {url.partition(":")[0] for url in asked}

    def tells(self, script: str) -> Any:
        return self.call("POST", "/execute/sync", {"script": f"return {script}", "args": []})


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    assert DRIVER is not None
    driver = subprocess.Popen([DRIVER, f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(100):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        opened = Browser(port, tmp_path_factory.mktemp("profile"))
        yield opened
        opened.call("DELETE", "")
    finally:
        driver.terminate()
        driver.wait(timeout=20)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_renders_without_complaint_and_without_the_network(
    browser: Browser, scheme: str, tmp_path: Path
) -> None:
    evil = "<script>document.title='owned'</script><img src=https://evil.example/x onerror=alert(1)>"
    path = page.write(folder(tmp_path, flips=[flip(1, base=evil, tuned=evil)]), reveal=True)
    browser.asked_for()
    browser.open(path, scheme=scheme)
    assert browser.complaints() == []
    assert browser.asked_for() == {"file", "data"}
    assert browser.tells("document.title").startswith("Silent collapse")
    assert browser.tells("document.scripts.length") == 0
    assert browser.tells("[...document.images].every(i => i.complete && i.naturalWidth > 300)")
    assert browser.tells("getComputedStyle(document.body).marginTop") == "0px"


def test_what_the_policy_forbids_would_be_seen_here(browser: Browser, tmp_path: Path) -> None:
    path = page.write(folder(tmp_path, metrics=()))
    html = path.read_text(encoding="utf-8")
    path.write_text(html.replace("</main>", "<script>document.title='owned'</script><p style='color:red'>x</p></main>"))
    browser.open(path)
    assert browser.tells("document.title") != "owned"
    assert len([c for c in browser.complaints() if "Content Security Policy" in c]) == 2


def test_the_page_fits_a_phone(browser: Browser, tmp_path: Path) -> None:
    browser.open(page.write(folder(tmp_path)), width=360)
    assert browser.tells("document.documentElement.scrollWidth") == 360
    assert browser.tells("document.images[0].currentSrc == document.querySelector('source').srcset")


def test_charts_follow_the_dark_page(browser: Browser, tmp_path: Path) -> None:
    path = page.write(folder(tmp_path))
    seen = set()
    for scheme in ("light", "dark"):
        browser.open(path, scheme=scheme)
        box = browser.tells(
            "(({x, y, width}) => ({x, y, width, height: 60}))(document.images[0].getBoundingClientRect())"
        )
        clip = {**box, "scale": 1}
        seen.add(browser.devtools("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)["data"])
    assert len(seen) == 2
