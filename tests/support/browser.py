"""A real browser, Debian's chromium, at the pages of a real service."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from playwright.async_api import Browser, Page, async_playwright

CHROMIUMS = [Path("/usr/bin/chromium-headless-shell"), Path("/usr/bin/chromium")]
"""The same engine; without a user interface it takes two thirds of the processor time."""
AXE = Path(__file__).parent.parent / "browser" / "axe" / "node_modules" / "axe-core" / "axe.min.js"


@contextlib.asynccontextmanager
async def browser() -> AsyncIterator[Browser]:
    """Chromium. Fails with the command that installs it where it is missing."""
    found = next((path for path in CHROMIUMS if path.exists()), None)
    assert found, "the browser is missing: sudo apt-get install chromium-headless-shell"
    async with async_playwright() as playwright:
        chromium = await playwright.chromium.launch(
            executable_path=found, args=["--no-sandbox", "--disable-lcd-text", "--disable-gpu"]
        )
        try:
            yield chromium
        finally:
            await chromium.close()


@contextlib.asynccontextmanager
async def tab(chromium: Browser, url: str, secret: str | None, **options: Any) -> AsyncIterator[Page]:
    """A page with a profile of its own, signed in at ``url`` if there is a token. Any error in its console fails."""
    async with await chromium.new_context(**{"viewport": {"width": 1280, "height": 900}} | options) as context:
        page = await context.new_page()
        complaints: list[str] = []
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        if secret is not None:
            await page.goto(f"{url}/?token={secret}")
        yield page
        expected = ("Failed to load resource", "net::ERR_")  # a service that was stopped on purpose, an error page
        assert not [text for text in complaints if not any(part in text for part in expected)]


async def violations(page: Page) -> list[str]:
    """What axe finds against WCAG 2.2 AA on the page."""
    await page.evaluate(AXE.read_text())
    tags = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]
    run = "tags => axe.run(document, {runOnly: {type: 'tag', values: tags}, resultTypes: ['violations']})"
    found = await page.evaluate(run, tags)
    return [f"{each['id']}: {each['help']}: {each['nodes'][0]['html'][:200]}" for each in found["violations"]]
