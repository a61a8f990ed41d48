"""The pages in a real browser, while real copies run."""

from __future__ import annotations

import asyncio
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, Page, expect

from simple_queue_server.http.tokens import hash_of
from tests.support.browser import tab, violations
from tests.support.http import Api, service_with_api, url_in_log
from tests.support.rabbitmq import RabbitNode
from tests.support.service import World, copyto
from tests.support.storage import serving
from tests.support.tcp_proxy import TcpProxy

pytestmark = pytest.mark.asyncio(loop_scope="module")  # of the browser

SLOW = {"flags": {"bwlimit": "1M"}}
HOSTILE = "<img src=x onerror=alert(1)>"
PORT_OF = re.compile(r":(\d+)$")
IMAGES = Path(__file__).parents[2] / "docs" / "images"
SECRET = "a token of the tests, which nobody else knows"


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(tmp_path, "", {})
    (world.src / "films").mkdir()
    for number in range(3):
        (world.src / "films" / f"reel-{number}.mov").write_bytes(os.urandom(50_000))
    return world


@pytest.fixture(params=["embedded", "amqp"])
def on_each_broker(request: pytest.FixtureRequest, world: World) -> World:
    if request.param == "amqp":
        node: RabbitNode = request.getfixturevalue("rabbitmq")
        queues = {"incoming_queue": f"in-{os.urandom(4).hex()}", "outgoing_queue": f"out-{os.urandom(4).hex()}"}
        world.write_config(amqp={"connection": {"port": node.port}, **queues})
    return world


async def submit(world: World, *bodies: bytes) -> None:
    async with world.client() as client:
        for body in bodies:
            await client.send(body)


def copy_body(source: str, target: str, **parameters: Any) -> bytes:
    request = json.loads(copyto(source, target))
    return json.dumps(request | {"action": "copy", "parameters": request["parameters"] | parameters}).encode()


async def width_of_bar(page: Page) -> float:
    return float(await page.locator("#running progress").first.get_attribute("value") or 0)


async def test_an_operator_sees_progress_finds_what_failed_and_sends_it_again(
    on_each_broker: World, chromium: Browser
) -> None:
    world = on_each_broker
    (world.src / "big").write_bytes(os.urandom(40_000_000))
    world.write_config(rclone=SLOW, server={"name": "copier", "shutdown_grace_s": 0})
    with service_with_api(world) as (url, secret):
        await submit(world, copyto("src:late.txt", "dst:late.txt", {"ticket": 9}), copyto("src:big", "dst:big"))
        async with tab(chromium, url, secret) as page:
            await expect(page.locator("#running progress[value]")).to_be_visible(timeout=15_000)
            before = await width_of_bar(page)
            while await width_of_bar(page) <= before:  # its page is not loaded again
                await asyncio.sleep(0.1)
            await page.get_by_role("link", name="1", exact=True).click()  # failed in the last hour
            await expect(page).to_have_url(re.compile("/history.state=failed"))
            await expect(page.get_by_text("1 × the source does not exist")).to_be_visible()
            await page.locator("tbody a").first.click()
            await expect(page.get_by_role("heading", level=1)).to_contain_text("failed")
            await expect(page.locator("main")).to_contain_text("the source does not exist")
            (world.src / "late.txt").write_text("here after all")
            await page.get_by_role("button", name="Send again").click()
            await expect(page.get_by_text("One request is put on the queue once more")).to_be_visible()
            await page.get_by_role("button", name="Send again").click()
            await expect_after_reloads(page, "h1 .succeeded", 1)
    assert (world.dst / "late.txt").read_text() == "here after all"


async def test_requests_that_wait_or_run_are_cancelled(world: World, chromium: Browser) -> None:
    (world.src / "big").write_bytes(os.urandom(60_000_000))
    world.write_config(rclone=SLOW, server={"name": "copier", "max_in_flight": 1})
    with service_with_api(world) as (url, secret):
        async with Api(url, secret) as api:
            await api.post("/v1/requests", copyto("src:big", "dst:big", {"n": "first"}))
            for number in range(3):
                await api.post("/v1/requests", copyto("src:films/reel-0.mov", f"dst:{number}", {"n": number}))
        async with tab(chromium, url, secret) as page:
            for chosen in ("1", "first"):
                await page.goto(f"{url}/history?label=n%3D{chosen}")
                await expect_after_reloads(page, "tbody tr", 1)
                await page.locator("tbody input[type=checkbox]").check()
                await page.get_by_role("button", name="Cancel the selected").click()
                await page.get_by_role("button", name="Cancel").click()
                await expect(page.get_by_role("heading", level=1)).to_have_text("Cancelled")
            for name, state in [("1", "cancelled"), ("first", "cancelled"), ("2", "succeeded")]:
                await page.goto(f"{url}/history?label=n%3D{name}&state={state}")
                await expect_after_reloads(page, "tbody tr", 1)
    assert sorted(path.name for path in world.dst.iterdir()) == ["0", "2"]


async def expect_after_reloads(page: Page, selector: str, count: int) -> None:
    for _ in range(60):
        if await page.locator(selector).count() == count:
            return
        await asyncio.sleep(0.3)
        await page.reload()
    raise AssertionError(await page.locator("main").inner_text())


async def test_a_stalled_copy_is_shown_as_such_with_the_last_error(world: World, chromium: Browser) -> None:
    with serving("s3", world.directory / "s3") as s3:
        (world.directory / "s3" / "bkt").mkdir()
        async with TcpProxy(s3.port) as proxy:
            with (world.directory / "rclone.conf").open("a") as conf:
                conf.write(s3.section("storage", endpoint=f"http://127.0.0.1:{proxy.port}"))
            roots = {"src": {"rclone_config": "src"}, "bucket": {"rclone_config": "storage:bkt"}}
            # Bytes count as transferred when rclone has read them, and it reads some 20 MiB before it waits for the
            # storage: at 8 MiB/s these are read in seconds, and the file lasts half a minute.
            flags = {"bwlimit": "8M", "timeout": "2s", "low-level-retries": 1}
            world.write_config(
                roots=roots, rclone={"flags": flags, "attempts": 9}, server={"name": "copier", "shutdown_grace_s": 0}
            )
            with (world.src / "big").open("wb") as big:
                big.truncate(240 << 20)
            with service_with_api(world, stalled_after_s=1) as (url, secret):
                await submit(world, copyto("src:big", "bucket:big"))
                async with tab(chromium, url, secret) as page:
                    await expect(page.locator("#running")).to_contain_text("Limited by bwlimit: 8M", timeout=15_000)
                    proxy.stall()
                    await expect(page.locator("#running")).to_contain_text("No byte for", timeout=30_000)
                    again = re.compile("The last error:|Tried again after:")
                    await expect(page.locator("#running")).to_contain_text(again, timeout=30_000)
                    proxy.resume()
                    await expect(page.locator("#health")).to_contain_text("All is well", timeout=20_000)


async def test_an_archivist_copies_a_folder_and_reads_that_it_is_proved(
    on_each_broker: World, chromium: Browser
) -> None:
    world = on_each_broker
    with service_with_api(world) as (url, secret):
        async with tab(chromium, url, secret) as page:
            await page.get_by_role("link", name="Copy", exact=True).click()
            await page.get_by_role("combobox", name="From").select_option("src")
            await page.get_by_role("button", name="Open").first.click()
            await page.get_by_role("combobox", name="To").select_option("dst")
            await page.get_by_role("button", name="Open").last.click()
            await page.get_by_label("Choose films").check()
            await page.get_by_label("Prove it by checksum").check()
            await page.get_by_label("Write a list of the files").check()
            await page.get_by_role("button", name="Show what will be asked").click()
            command = await page.locator("pre").first.inner_text()
            assert command == (
                "medusa-copier submit --action copy --verify checksum --manifest dst:films.manifest.jsonl"
                " src:films dst:films"
            )
            assert not list(world.dst.iterdir()), "nothing happens before it is confirmed"
            await page.get_by_role("button", name="Copy").click()
            await expect(page.locator("#sentence")).to_contain_text(
                "Verified: 3 files were compared at source and target by SHA-256, and found the same.", timeout=15_000
            )
    for number in range(3):
        name = f"films/reel-{number}.mov"
        assert (world.dst / name).read_bytes() == (world.src / name).read_bytes()
    assert len((world.dst / "films.manifest.jsonl").read_text().splitlines()) == 3


async def test_two_tabs_stay_up_to_date_over_a_restart_of_the_service(world: World, chromium: Browser) -> None:
    with service_with_api(world) as (url, secret):
        port = PORT_OF.findall(url)[0]
    world.write_config(http={"listen": f"127.0.0.1:{port}"})
    async with await chromium.new_context() as context:
        with world.service():
            url_in_log(world, after=1)
            first, second = await context.new_page(), await context.new_page()
            await first.goto(f"{url}/?token={secret}")
            await second.goto(url)
        await expect(first.locator("#connection")).to_contain_text("does not answer", timeout=15_000)
        with world.service():
            url_in_log(world, after=2)
            await submit(world, copyto("src:films/reel-1.mov", "dst:1"))
            for page in (first, second):
                await page.bring_to_front()
                await expect(page.locator("#ended")).to_contain_text("reel-1.mov", timeout=15_000)
                await expect(page.locator("#connection")).to_have_text("")


async def test_a_token_sees_and_may_do_its_own_only(world: World, chromium: Browser) -> None:
    token = {"name": "curator", "hash": hash_of(SECRET), "roots": {"src": "read"}, "actions": ["copyto"]}
    with service_with_api(world, tokens=[token]) as (url, _):
        await submit(world, copyto("src:films/reel-0.mov", "dst:0"))
        async with tab(chromium, url, SECRET) as page:
            await expect(page.get_by_role("heading", level=1)).to_have_text("Now")
            await expect(page.get_by_role("button", name="Halt")).to_have_count(0)
            await page.goto(f"{url}/history")
            await expect(page.get_by_text("No requests match")).to_be_visible()
            await page.goto(f"{url}/requests?id=incoming-1")
            await expect(page.get_by_role("alert")).to_contain_text("there is no request")
            await page.goto(f"{url}/charts")
            await expect(page.get_by_role("alert")).to_contain_text("operator: true")
            await page.goto(f"{url}/copy?source_root=src")
            await expect(page.get_by_text("your token may write none")).to_be_visible()
            await page.get_by_role("button", name="Sign out").click()
            await expect(page).to_have_url(re.compile("/sign-in"))
            await page.goto(f"{url}/history")
            await expect(page.get_by_role("heading", level=1)).to_have_text("Sign in")


async def test_hostile_names_are_shown_and_do_nothing(world: World, chromium: Browser) -> None:
    names = [f"{HOSTILE}.txt", "a\u202egpj.exe", "line\nbreak", "\x1b[31mred", '"><script>alert(2)</script>']
    for name in names:
        (world.src / name.replace("/", "_")).write_text("x")
    label = {"ticket": HOSTILE, "\u202e": "</script>"}
    with service_with_api(world) as (url, secret):
        for name in names:
            await submit(world, copyto(f"src:{name.replace('/', '_')}", f"dst:{name}", label))
        await submit(world, copyto(f"src:{HOSTILE}/none", f"dst:{HOSTILE}", label))
        async with tab(chromium, url, secret) as page:
            alerts: list[str] = []
            page.on("dialog", lambda dialog: alerts.append(dialog.message))
            await expect_after_reloads(page, "#ended tbody tr", len(names) + 1)
            for path in ("/", "/history", "/copy?source_root=src&target_root=dst"):
                await page.goto(url + path)
                assert await page.locator("main img, main script").count() == 0
                assert HOSTILE in await page.locator("main").inner_text()
                assert "\u202e" not in await page.locator("main").inner_text()
            await page.goto(f"{url}/history?state=failed")
            await page.locator("tbody a").first.click()
            await expect(page.get_by_role("heading", level=1)).to_contain_text("copyto")
            assert alerts == []


async def test_all_of_it_works_without_javascript(world: World, chromium: Browser) -> None:
    with service_with_api(world) as (url, secret):
        async with tab(chromium, url, secret, java_script_enabled=False) as page:
            await page.goto(f"{url}/copy?source_root=src&source_key=films&target_root=dst")
            await page.get_by_label("Choose reel-0.mov").check()
            await page.get_by_role("button", name="Show what will be asked").click()
            await page.get_by_role("button", name="Copy").click()
            await expect(page.get_by_role("heading", level=1)).to_contain_text("copyto")
            await page.goto(f"{url}/history")
            await page.get_by_label("State").select_option("succeeded")
            await page.get_by_role("button", name="Show", exact=True).click()
            await expect_after_reloads(page, "tbody tr", 1)
            await page.get_by_label("Select the request").check()
            await page.get_by_role("button", name="Send the selected again").click()
            await page.get_by_role("button", name="Send again").click()
            await expect(page.get_by_role("heading", level=1)).to_contain_text("copyto")
            await page.goto(url)
            await page.get_by_role("button", name="End this service").click()
            await expect(page.locator("main")).to_contain_text("takes no more requests, ends at once.")
            await page.get_by_role("link", name="Leave everything as it is").click()
            await expect(page.get_by_role("heading", level=1)).to_have_text("Now")


async def test_an_operator_halts_a_service_that_is_busy_and_lets_it_go_on(world: World, chromium: Browser) -> None:
    (world.src / "big").write_bytes(os.urandom(60_000_000))
    world.write_config(rclone=SLOW, server={"name": "copier", "shutdown_grace_s": 0})
    with service_with_api(world) as (url, secret):
        async with tab(chromium, url, secret) as page:
            await submit(world, copyto("src:big", "dst:big"))
            await expect(page.locator("#running progress")).to_be_visible(timeout=15_000)
            await page.get_by_role("button", name="End this service").click()
            await expect(page.locator("main")).to_contain_text("finishes the request in flight, and then ends")
            await page.get_by_role("button", name="End this service").click()
            await expect(page.locator("#services")).to_contain_text("halting")
            await page.get_by_role("button", name="Let it go on").click()
            await expect(page.locator("#services tbody")).to_contain_text("up")


async def test_pages_are_accessible_small_and_fit_a_phone(world: World, chromium: Browser) -> None:
    for number in range(60):
        (world.src / f"file-{number}").write_text("x")
    with service_with_api(world) as (url, secret):
        await submit(world, *(copyto(f"src:file-{number}", f"dst:{number}") for number in range(60)))
        await submit(world, copyto("src:nowhere", "dst:nowhere", {"ticket": 1}))
        async with tab(chromium, url, secret, viewport={"width": 360, "height": 740}) as page:
            await page.goto(f"{url}/history?state=failed")
            await expect_after_reloads(page, "tbody tr", 1)
            one = await page.locator("tbody a").first.get_attribute("href")
            paths = ["/", "/history", "/charts?span=day", "/copy?source_root=src&target_root=dst", str(one), "/sign-in"]
            for path in paths:
                response = await page.goto(url + path)
                assert response is not None
                assert response.status == 200
                assert len(await response.body()) <= 60_000, path
                assert await violations(page) == [], path
                widths = await page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
                assert widths[0] <= widths[1], f"{path} is wider than the screen: {widths}"
            await page.emulate_media(color_scheme="dark")
            for path in paths:
                await page.goto(url + path)
                assert await violations(page) == [], f"{path}, dark"


async def test_the_keyboard_suffices(world: World, chromium: Browser) -> None:
    with service_with_api(world) as (url, secret):
        async with tab(chromium, url, secret) as page:
            await page.goto(f"{url}/copy?source_root=src&source_key=films&target_root=dst")
            await press_until(page, "Tab", "document.activeElement.value === 'films/reel-0.mov'")
            await page.keyboard.press("Space")
            await press_until(page, "Tab", "document.activeElement.textContent === 'Show what will be asked'")
            await page.keyboard.press("Enter")
            await expect(page.get_by_role("heading", level=1)).to_have_text("What will be asked")
            await press_until(
                page,
                "Tab",
                "document.activeElement.matches('main button')",
            )
            await page.keyboard.press("Enter")
            await expect(page.get_by_role("heading", level=1)).to_contain_text("copyto")


async def press_until(page: Page, key: str, condition: str) -> None:
    for _ in range(60):
        await page.keyboard.press(key)
        if await page.evaluate(condition):
            return
    raise AssertionError(f"{key} never led to {condition}")


async def test_a_form_from_another_site_is_refused(world: World) -> None:
    with service_with_api(world) as (url, secret):
        async with Api(url, None) as api:
            signed_in = {"Cookie": f"token={secret}"}
            form = {**signed_in, "Content-Type": "application/x-www-form-urlencoded"}
            without_proof = await api.ask("POST", "/halt", headers=form, data=b"halted=true")
            assert (without_proof.status, without_proof.headers["Content-Type"]) == (403, "text/html; charset=utf-8")
            elsewhere = {**form, "Origin": "https://elsewhere.example", "Sec-Fetch-Site": "cross-site"}
            assert (await api.ask("POST", "/sign-in", headers=elsewhere, data=f"token={secret}".encode())).status == 403
            assert (await api.ask("POST", "/v1/halt", headers=form, data=b'{"halted": true}')).status == 401
            page = await api.ask("GET", "/", headers=signed_in)
            policy = page.headers["Content-Security-Policy"]
            assert "unsafe" not in policy
            assert "default-src 'none'" in policy
            welcome = await api.ask("GET", f"/?token={secret}", headers={})
            cookie = welcome.headers["Set-Cookie"]
            assert "HttpOnly" in cookie
            assert "SameSite=strict" in cookie
            assert welcome.headers["Location"] == "/"
            away = f"token={secret}&next=//elsewhere.example/".encode()
            assert (await api.ask("POST", "/sign-in", headers=form, data=away)).headers["Location"] == "/"
