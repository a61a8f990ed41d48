"""The browser of the tests of pages."""

from collections.abc import AsyncIterator

import pytest_asyncio
from playwright.async_api import Browser

from tests.support.browser import browser


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def chromium() -> AsyncIterator[Browser]:
    """One for a module: it takes longer to start than most tests. Each test has profiles of its own."""
    async with browser() as started:
        yield started
