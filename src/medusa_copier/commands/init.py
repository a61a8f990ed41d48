"""``medusa-copier init``: writes a commented configuration for the given broker and roots."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import click

from medusa_copier.settings import CopierSettings
from simple_queue_server import SettingsError
from simple_queue_server.settings.loader import parse

MODE: Final = 0o640
"""It may contain a password, although ``${NAME}`` is preferable."""

HEAD: Final = """\
# The configuration of medusa-copier. `medusa-copier check` tests whether everything that it names can be reached.
# A line that is commented out shows a default. ${NAME} in a text is that environment variable: the place for secrets.

server:
  name: %(name)s              # names the service in its log, and its pid file
  # max_in_flight: auto         # requests worked on at the same time; 1 keeps the order of the queue
  # shutdown_grace_s: 60        # after a stop, what isn't done in so many seconds goes back to the queue
"""

BROKERS: Final[Mapping[str, str]] = {
    "amqp": """
amqp:                           # RabbitMQ
  incoming_queue: medusa_to_copier
  outgoing_queue: copier_to_medusa
  # progress_queue: copier_progress     # events of each request; without it there are none
  connection:
%(connection)s
""",
    "sqs": """
sqs:                            # Amazon SQS, or a server that speaks its protocol
  incoming_queue: medusa_to_copier
  outgoing_queue: copier_to_medusa
  # progress_queue: copier_progress     # events of each request; without it there are none
  connection:                   # what isn't here comes from the AWS default chain
%(connection)s
""",
    "embedded": """
embedded:                       # a queue in a file, for services and clients of this machine
  path: %(path)s
  # progress_queue: progress    # events of each request; without it there are none
""",
}

EXAMPLES: Final[Mapping[str, Mapping[str, str]]] = {
    "amqp": {"host": "127.0.0.1", "port": "5672", "username": "guest", "password": "${MQ_PASSWORD}", "tls": "true"},
    "sqs": {"region": "us-east-2", "endpoint": "https://sqs.example.org", "access_key_id": "${AWS_ACCESS_KEY_ID}"},
}
"""Keys of a connection that are included as comments if none of them is given."""

TAIL: Final = """
log:
  level: info                   # debug, info, warn, error
  # destination: %(log)s   # or stdout

# The places that requests may name: a directory of this machine, a remote of rclone.conf, or a path in one.
roots:
%(roots)s
# rclone_config_path: rclone.conf     # default: rclone's own
# rclone:
#   flags: {transfers: 4}             # rclone's global flags by their own names
"""

ROOT: Final = """\
  %(name)s:
    rclone_config: %(place)s
    # access: read-write        # read, write
    # overwrite: never          # no request may replace content in it
    # max_in_flight: 8          # requests that work on it at the same time
"""


class _AnyVariable(dict[str, str]):
    """An environment in which every variable is set: whether they are is checked when the service starts."""

    def __contains__(self, _: object) -> bool:
        return True

    def __missing__(self, name: str) -> str:
        return name


def write_configuration(
    path: Path, broker: str, roots: Sequence[str], *, name: str, connection: Sequence[str]
) -> CopierSettings:
    """Write the file ``path``, which must not exist. Returns the message to print.

    ``roots`` are ``NAME=PLACE``, ``connection`` ``KEY=VALUE``. Raises click.UsageError and SettingsError.
    """
    text = configuration(broker, roots, name=name, connection=connection)
    settings = parse(text, CopierSettings, source=str(path), environ=_AnyVariable())
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, MODE)
    except FileExistsError:
        raise SettingsError(f"{path}: is there already; remove it first, or name another file by --config") from None
    except OSError as error:
        raise SettingsError(f"{path}: can't be written: {error.strerror}") from None
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    return settings


def configuration(broker: str, roots: Sequence[str], *, name: str, connection: Sequence[str]) -> str:
    """The text of the file. Raises click.UsageError."""
    if connection and broker not in EXAMPLES:
        raise click.UsageError(f"--connection doesn't go with --broker {broker}")
    places = dict(_pair("--root", root, "NAME=PLACE") for root in roots)
    fields = {
        "name": _quoted(name),
        "connection": "\n".join(
            _connection(broker, dict(_pair("--connection", each, "KEY=VALUE") for each in connection))
        ),
        "path": "run/queue.db",
        "log": f"log/{name}.log",
        "roots": "".join(
            ROOT % {"name": _quoted(root), "place": _quoted(_place(place))} for root, place in places.items()
        ),
    }
    return HEAD % fields + BROKERS[broker] % fields + TAIL % fields


def _connection(broker: str, given: Mapping[str, str]) -> Iterator[str]:
    for key, value in given.items():
        yield f"    {_quoted(key)}: {_quoted(value)}"
    for key, value in EXAMPLES.get(broker, {}).items():
        if key not in given:
            yield f"    # {key}: {_quoted(value)}"
    if not given:
        yield "    {}"


def _place(place: str) -> str:
    """A directory of this machine by its whole path: a name alone would be a remote's."""
    is_here = ":" not in place and not place.startswith("/") and Path(place).is_dir()
    return (str(Path(place).resolve()) if is_here else place).replace("${", "$${")


def _pair(option: str, text: str, wanted: str) -> tuple[str, str]:
    name, sign, value = text.partition("=")
    if not (sign and name and value):
        raise click.UsageError(f"{option} {text}: write {wanted}")
    return name, value


def _quoted(text: str) -> str:
    """As YAML writes it: plain where that means the text, else in quotes."""
    plain = text.replace("_", "").replace("/", "").replace("-", "").replace(".", "")
    is_word = text.isascii() and plain.isalnum() and text[0].isalpha() and text.lower() not in _WORDS
    return (
        text
        if is_word or (text.startswith("/") and text.isascii() and plain.isalnum())
        else json.dumps(text, ensure_ascii=False)
    )


_WORDS: Final = {"true", "false", "yes", "no", "on", "off", "null", "y", "n"}
