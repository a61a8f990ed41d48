"""Pictures of the pages with sample work, made on request: with the variable SCREENSHOTS.

It names a directory for each page at three widths, light and dark; ``docs`` stands for those of the documentation.
"""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, Page, ViewportSize, expect

from tests.browser.test_pages import expect_after_reloads, submit
from tests.support.browser import tab
from tests.support.http import service_with_api
from tests.support.service import World

WHERE = os.environ.get("SCREENSHOTS", "")
DOCS = Path(__file__).parents[2] / "docs" / "images"
WIDTHS = (360, 800, 1280)
LARGEST_BYTES = 60_000
SIZES: dict[str, ViewportSize] = {
    "now": {"width": 960, "height": 500},
    "history": {"width": 960, "height": 500},
    "request": {"width": 960, "height": 500},
    "copy": {"width": 960, "height": 500},
    "charts": {"width": 960, "height": 500},
}
"""Of the pictures in the documentation: PNGs of no more than LARGEST_BYTES."""
SERVER = {"name": "copier", "shutdown_grace_s": 0}
TITLES = ("harbour", "market day", "the old mill", "a wedding", "school trip", "flood of 1951")

pytestmark = [
    pytest.mark.skipif(not WHERE, reason="pictures are made on request: SCREENSHOTS=DIRECTORY"),
    pytest.mark.asyncio(loop_scope="module"),  # of the browser
]


def request(action: str, source: str, target: str, batch: str, **parameters: Any) -> bytes:
    places = dict(zip(("source_root", "source_key"), source.split(":", 1), strict=True))
    places |= dict(zip(("target_root", "target_key"), target.split(":", 1), strict=True))
    body = {"action": action, "parameters": places | parameters, "pass_through": {"batch": batch}}
    return json.dumps(body).encode()


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(tmp_path, "", {})
    films = world.src / "films"
    for number, title in enumerate(TITLES):
        (films / title).mkdir(parents=True)
        for reel in range(3):
            (films / title / f"reel-{reel + 1}.mov").write_bytes(os.urandom(100_000 + 40_000 * number))
    (films / "catalogue.xml").write_text("<films/>")
    (films / "large.mov").write_bytes(os.urandom(60_000_000))
    (films / "larger.mov").write_bytes(os.urandom(90_000_000))
    roots = {"masters": {"rclone_config": str(world.src)}, "access": {"rclone_config": str(world.dst)}}
    world.write_config(
        roots=roots, rclone={"flags": {"bwlimit": "2M"}}, server={"name": "copier", "shutdown_grace_s": 0}
    )
    return world


async def sample_work(world: World) -> None:
    done = [request("copy", f"masters:films/{t}", f"access:films/{t}", "spring", verify="checksum") for t in TITLES[:3]]
    done += [request("copyto", "masters:films/catalogue.xml", f"access:catalogue-{n}.xml", "daily") for n in range(9)]
    lost = [request("copyto", f"masters:films/lost-{n}.mov", f"access:lost-{n}.mov", "spring") for n in range(3)]
    await submit(world, *done, *lost)


async def running_work(world: World) -> None:
    await submit(
        world,
        request("copyto", "masters:films/large.mov", "access:films/large.mov", "spring"),
        request("copyto", "masters:films/larger.mov", "access:films/larger.mov", "spring"),
    )


async def test_pictures(world: World, chromium: Browser) -> None:
    with service_with_api(world) as (url, secret):
        await sample_work(world)
        async with tab(chromium, url, secret) as page:
            await page.goto(f"{url}/history?state=succeeded")
            await expect_after_reloads(page, "tbody tr", 12)
            await page.goto(f"{url}/history?text=old+mill")
            one = await page.locator("tbody a").first.get_attribute("href")
            await page.goto(f"{url}/history?state=failed")
            failed = await page.locator("tbody a").first.get_attribute("href")
        await running_work(world)
        paths = {
            "now": "/",
            "history": "/history",
            "request": str(one),
            "failed": str(failed),
            "copy": "/copy?source_root=masters&source_key=films&target_root=access&target_key=films",
            "charts": "/charts",
            "sign-in": "/sign-in",
        }
        if WHERE == "docs":
            await for_docs(chromium, url, secret, paths)
        else:
            await for_review(chromium, url, secret, paths)


async def for_docs(chromium: Browser, url: str, secret: str | None, paths: dict[str, str]) -> None:
    DOCS.mkdir(exist_ok=True)
    async with tab(chromium, url, secret) as page:
        for name, size in SIZES.items():
            await page.set_viewport_size(size)
            await show(page, url, name, paths[name])
            path = DOCS / f"{name}.png"
            await page.screenshot(path=path)
            assert path.stat().st_size <= LARGEST_BYTES, f"{name}: {path.stat().st_size}"


async def for_review(chromium: Browser, url: str, secret: str | None, paths: dict[str, str]) -> None:
    directory = Path(WHERE)
    directory.mkdir(parents=True, exist_ok=True)
    for scheme in ("light", "dark"):
        for width in WIDTHS:
            async with tab(
                chromium, url, secret, viewport={"width": width, "height": 900}, color_scheme=scheme
            ) as page:
                for name, path in paths.items():
                    await show(page, url, name, path)
                    await page.screenshot(path=directory / f"{name}-{width}-{scheme}.png", full_page=True)


async def show(page: Page, url: str, name: str, path: str) -> None:
    await page.goto(url + path)
    if name == "now":
        await expect(page.locator("#running progress").first).to_be_visible(timeout=15_000)
    if name == "copy":
        await page.get_by_label("Choose the old mill").check()
        await page.evaluate("window.scrollTo(0, 0)")
    await asyncio.sleep(0.2)  # what the script does when a page is there
