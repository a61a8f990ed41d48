"""Assembles the HTTP API: tokens, operations, their description, and the server."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import structlog

from simple_queue_server.brokers import client_for, queues_of
from simple_queue_server.control import Control
from simple_queue_server.http import openapi
from simple_queue_server.http.application import Application
from simple_queue_server.http.bulk import BulkOperations
from simple_queue_server.http.dead_letters import DeadLetterOperations
from simple_queue_server.http.description import Description
from simple_queue_server.http.events import EventHub
from simple_queue_server.http.extension import Extension
from simple_queue_server.http.health import Health, broker_check, directory_check
from simple_queue_server.http.metrics import MetricsOperations
from simple_queue_server.http.operations import Operation
from simple_queue_server.http.queue import IncomingQueue
from simple_queue_server.http.queued_cancels import Cancels
from simple_queue_server.http.requests import RequestOperations
from simple_queue_server.http.server import HttpServer
from simple_queue_server.http.services import ServiceOperations
from simple_queue_server.http.submission import Submissions
from simple_queue_server.http.tokens import Tokens, kept_in
from simple_queue_server.http.ui.assembly import pages
from simple_queue_server.http.ui.backend import Backend
from simple_queue_server.metrics.collector import Metrics
from simple_queue_server.records.reader import RecordsReader
from simple_queue_server.records.submissions import SubmissionLog
from simple_queue_server.settings.sections import HttpSection, Settings

log = structlog.stdlib.get_logger("simple_queue_server")


@asynccontextmanager
async def serving(
    control: Control,
    settings: Settings,
    *,
    section: HttpSection,
    run_directory: Path,
    extend: Callable[[], Extension] | None,
    metrics: Metrics | None,
) -> AsyncIterator[None]:
    """Serve the HTTP API while the block runs. Raises SettingsError if the token file can't be created."""
    extension = Extension() if extend is None else extend()
    token_file = run_directory / "http-token"
    secret = None if section.tokens else kept_in(token_file)

    def announce(url: str) -> None:
        if secret is not None:
            log.info("http_token", file=str(token_file.absolute()))
            if sys.stdout.isatty():  # elsewhere, what a service prints ends in a log
                sys.stdout.write(f"The HTTP API answers at {url}/?token={secret}\n")

    async with AsyncExitStack() as resources:
        records = RecordsReader.of(settings.records, run_directory)
        resources.callback(records.close)
        submission_log = _submission_log(settings, run_directory)
        if submission_log is not None:
            resources.callback(submission_log.close)
        cancels = Cancels(control, submission_log)
        control.observe(cancels)
        submissions = Submissions(lambda: client_for(settings), submission_log)
        resources.push_async_callback(submissions.close)
        hub = EventHub(control.in_flight, settings.server.progress_interval_s)
        control.observe(hub)
        queue = IncomingQueue(settings)
        checks = {"broker": broker_check(settings, queue), "run_directory": directory_check(run_directory)}
        health = Health(checks | dict(extension.checks))
        services = ServiceOperations(control, records, settings.server.name)
        requests = RequestOperations(control, submissions, cancels, records, extension.uses)
        tokens = Tokens.of(section, secret)
        operations: list[Operation] = [
            *requests.operations(),
            *BulkOperations(requests).operations(),
            *extension.operations,
            *services.operations(),
            *DeadLetterOperations(settings, run_directory / "journal").operations(),
            *hub.operations(),
            *([] if metrics is None else MetricsOperations(metrics).operations()),
            *health.operations(),
        ]
        backend = Backend(settings, control, services, requests, records, health, queue)
        shown = await resources.enter_async_context(pages(backend, section, tokens, extension))
        app = Application(section, tokens, [*_described(operations, extension), *shown])
        await resources.enter_async_context(HttpServer(app, section, announce, on_stop=hub.close).running())
        yield


def _described(operations: list[Operation], extension: Extension) -> list[Operation]:
    """The operations, plus those that describe them all."""

    def describe() -> dict[str, Any]:
        return openapi.description(extension.title, extension.version, all_of_them, extension.messages)

    all_of_them = [*operations, *Description(describe).operations()]
    return all_of_them


def _submission_log(settings: Settings, run_directory: Path) -> SubmissionLog | None:
    if not settings.records.enabled:
        return None
    return SubmissionLog(run_directory / "records", f"{settings.server.name} (HTTP)", queues_of(settings))
