"""Configuration files: the Ruby service's own, symbols, environment variables, and clear complaints."""

from pathlib import Path

import pytest

from medusa_copier.settings import CopierSettings
from simple_queue_server.errors import SettingsError
from simple_queue_server.settings import loader

RUBY = """\
#server and amqp stanzas are mandatory for a SimpleAmqpServer
server:
  name: medusa_copier
  sleep_on_empty: 60
  max_total_requests: ~
amqp:
  incoming_queue: medusa_to_copier
  outgoing_queue: copier_to_medusa
  connection:
    :port: 5673
    :host: mq.example.org
    :heartbeat: 30
  max_connection_retry_errors: 4
log:
  level: :info
  destination: ~
  show_responses: false
  show_requests: true
rclone_config_path: ~
roots:
  source_name:
    rclone_config: source
  target_name:
    rclone_config: target
"""

ROOTS = "roots: {a: {rclone_config: x}}\n"


def settings(text: str, environ: dict[str, str] | None = None) -> CopierSettings:
    return loader.parse(text, CopierSettings, source="c.yaml", environ=environ or {})


def complaint(text: str, environ: dict[str, str] | None = None) -> str:
    with pytest.raises(SettingsError) as raised:
        settings(text, environ)
    return str(raised.value)


def test_the_ruby_services_file_loads_as_it_is() -> None:
    loaded = settings(RUBY)
    assert loaded.server.name == "medusa_copier"
    assert loaded.amqp is not None
    assert (loaded.amqp.incoming_queue, loaded.amqp.outgoing_queue) == (
        "medusa_to_copier",
        "copier_to_medusa",
    )
    assert not isinstance(loaded.amqp.connection, str)
    assert (loaded.amqp.connection.host, loaded.amqp.connection.port) == ("mq.example.org", 5673)
    assert loaded.amqp.max_connection_retry_errors == 4
    assert (loaded.log.level, loaded.log.show_requests) == ("info", True)
    assert loaded.rclone_config_path is None
    assert {name: root.fs for name, root in loaded.roots.items()} == {
        "source_name": "source:",
        "target_name": "target:",
    }


def test_an_empty_connection_means_the_defaults() -> None:
    for connection in ("", " ~", " {}"):
        loaded = settings(f"server: {{name: n}}\namqp:\n  incoming_queue: i\n  connection:{connection}\n{ROOTS}")
        assert loaded.amqp is not None
        assert loaded.amqp.connection == type(loaded.amqp.connection)()


def test_a_quoted_text_with_a_colon_is_no_symbol() -> None:
    assert settings(f"server: {{name: ':quoted'}}\n{ROOTS}").server.name == ":quoted"
    assert settings(f"server:\n  name: :symbol\n{ROOTS}").server.name == "symbol"


@pytest.mark.parametrize(
    ("written", "fs"),
    [("source", "source:"), ("s3:bucket/prefix", "s3:bucket/prefix"), ("/srv/masters", "/srv/masters")],
)
def test_a_root_is_a_remote_or_a_path_in_one_or_a_local_directory(written: str, fs: str) -> None:
    assert settings(f"server: {{name: n}}\nroots: {{a: {{rclone_config: '{written}'}}}}").roots["a"].fs == fs


def test_environment_variables_are_filled_in_anywhere_in_a_text() -> None:
    text = "server: {name: 'copier-${SITE}', max_in_flight: '${N}'}\nrclone: {flags: {x: ['$${SITE}']}}\n" + ROOTS
    loaded = settings(text, {"SITE": "north", "N": "7"})
    assert loaded.server.name == "copier-north"
    assert loaded.server.max_in_flight == 7
    assert loaded.rclone.flags["x"] == ["${SITE}"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("server: {nam: n}\n" + ROOTS, ["c.yaml: server.nam: unknown key", "did you mean 'name'?"]),
        ("servers: {name: n}\n" + ROOTS, ["c.yaml: servers: unknown key", "did you mean 'server'?"]),
        ("server: {name: n, zzz: 1}\n" + ROOTS, ["server.zzz: unknown key; known here: journal_after_s,"]),
        (
            "server: {name: n}\namqp:\n  incoming_queue: i\n  connection:\n    :prt: 1\n" + ROOTS,
            ["amqp.connection.prt: unknown key; did you mean 'port'?"],
        ),
        (
            "server: {name: n}\nroots: {a: {rclone_conf: x}}",
            ["roots.a.rclone_conf: unknown key", "'rclone_config'"],
        ),
        (
            "server: {name: n}\nroots: {a: }",
            ["c.yaml: roots.a.rclone_config is missing; for example, rclone_config: 's3:bucket/prefix'"],
        ),
        ("server: {name: n}\nroots: {}", ["roots must not be empty; for example, roots: {masters: {"]),
        ("server: {name: n}", ["c.yaml: roots is missing; for example, roots: {masters: {"]),
        ("roots: {a: {rclone_config: x}}", ["c.yaml: server is missing; for example, server: {name: medusa_copier}"]),
        ("server: {}\n" + ROOTS, ["server.name is missing; for example, name: medusa_copier"]),
        (
            "server: {name: 5}\n" + ROOTS,
            ["server.name must be text, not a whole number; for example, name: medusa_copier"],
        ),
        (
            "server: {name: n, max_in_flight: many}\n" + ROOTS,
            ["server.max_in_flight must be a whole number or auto, not 'many'"],
        ),
        (
            "server: {name: n, max_in_flight: 0}\n" + ROOTS,
            ["server.max_in_flight must be at least 1"],
        ),
        (
            "server: {name: a/b}\n" + ROOTS,
            ["server.name must be a name that can be part of a file name; for example, name: medusa_copier"],
        ),
        (
            "server: {name: n}\nlog: {level: loud}\n" + ROOTS,
            ["log.level must be one of debug, info,"],
        ),
        (
            "server: {name: n}\nroots: {a.b: {rclone_config: x, access: all}}",
            ["roots.a.b.access must be one of read, write, read-write, not 'all'"],
        ),
        (
            "server: {name: n}\namqp: {}\n" + ROOTS,
            ["amqp.incoming_queue is missing; for example, incoming_queue: medusa_to_copier"],
        ),
        (
            "server: {name: n}\nrclone: {flags: {bwlimit: {a: 1}}}\n" + ROOTS,
            ["rclone.flags.bwlimit must be true or false or a whole number"],
        ),
        (
            "server: {name: n}\nroots: {7: {rclone_config: x}}",
            ["roots.7: a name must be text, not a number; put it in"],
        ),
        ("server: {name: n}\n? [a, b]\n: 1\n" + ROOTS, ["is not YAML: a key must be plain text"]),
        (
            "server: {name: n}\nrclone: {path: 5}\n" + ROOTS,
            ["rclone.path: must be the path of a file, not 5"],
        ),
        ("server: {name: n}\nrclone: {path: ''}\n" + ROOTS, ["rclone.path: must be the path of a file"]),
        ("server: {name: '${NOPE}'}\n" + ROOTS, ["server.name: the environment variable NOPE is not set"]),
        ("server: {name: n}\nserver: {name: m}\n" + ROOTS, ["duplicate key 'server'"]),
        ("server: [\n", ["is not YAML: ", "(line 2, column 1)"]),
        (
            'server: {name: n}\namqp:\n  incoming_queue: i\n  connection:\n    password: <%= ENV["MQ_PW"] %>\n' + ROOTS,
            ["c.yaml: amqp.connection.password: has ERB (<%= … %>), which isn't evaluated; write ${MQ_PW}"],
        ),
        ("server: {name: \"a-<%= ENV.fetch('SITE') %>\"}\n" + ROOTS, ["server.name: has ERB", "write ${SITE}"]),
        ("server: {name: '<%= Socket.gethostname %>'}\n" + ROOTS, ["server.name: has ERB", "write ${NAME}"]),
        ("server: {name: n}\nrclone: {flags: {x: ['<%= 1 %>']}}\n" + ROOTS, ["rclone.flags.x[0]: has ERB"]),
        ("server: {name: n}\nroots: {<%= x %>: {rclone_config: x}}", ["roots: has ERB"]),
        ("server: {name: n}\n<% if true %>\n" + ROOTS, ["line 2: has ERB (<% … %>)"]),
        ("- a\n", ["must be a mapping of sections, not a list"]),
        ("", ["c.yaml: server is missing; for example, server: {name: medusa_copier}"]),
    ],
)
def test_a_wrong_file_is_refused_naming_the_place_and_the_remedy(text: str, words: list[str]) -> None:
    message = complaint(text)
    for word in words:
        assert word in message
    assert "\n" not in message


def test_a_file_that_is_missing_or_no_text_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"nowhere\.yaml: can't be read: No such file"):
        loader.load(tmp_path / "nowhere.yaml", CopierSettings)
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe")
    with pytest.raises(SettingsError, match="is not UTF-8 text"):
        loader.load(tmp_path / "binary.yaml", CopierSettings)


def test_a_secret_from_the_environment_does_not_show_in_an_error() -> None:
    text = "server: {name: n}\namqp: {incoming_queue: i, connection: {password: '${PW}', port: '${PW}'}}\n" + ROOTS
    message = complaint(text, {"PW": "hunter2"})
    assert "amqp.connection.port" in message
    assert "hunter2" not in message
