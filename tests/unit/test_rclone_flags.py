"""Every flag of rclone is decided: allowed, or refused with a reason."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from medusa_copier.rclone.process import flags
from medusa_copier.rclone.process.connection_string import hidden, parse
from tests.support import storage

HELP_OF_ITSELF = {"group", "help", "name"}
PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"


def listed(*arguments: str) -> set[str]:
    """The flags that ``rclone help flags`` lists."""
    text = subprocess.run(
        [storage.RCLONE, "help", "flags", *arguments], capture_output=True, text=True, check=True
    ).stdout
    return set(re.findall(r"^ +(?:-., )?--([a-z0-9-]+)", text, flags=re.MULTILINE)) - HELP_OF_ITSELF


def test_every_flag_of_this_rclone_is_decided() -> None:
    undecided = sorted(flag for flag in listed() if not flags.is_known(flag))
    assert undecided == [], "a new rclone has flags that flags.py does not know: decide each"


def test_the_flags_of_the_backends_are_those_of_this_rclone() -> None:
    assert sorted(flags.backend_flags()) == sorted(listed("--group", "Backend")), "run scripts/list-backend-flags"


def test_no_flag_is_decided_twice_or_is_none_of_rclones() -> None:
    named = [
        *flags.ALLOWED,
        *flags.RESIDENT_ONLY,
        *(name for names in flags.REFUSED.values() for name in names.split()),
    ]
    assert len(named) == len(set(named))
    assert set(named) - listed() - flags.backend_flags() == set()


@pytest.mark.parametrize("flag", ["s3-chunk-size", "s3-no-check-bucket", "s3-no-head", "local-hashes", "copy-links"])
def test_a_backends_flag_for_speed_or_access_is_allowed(flag: str) -> None:
    assert flags.refusal(flag) is None


@pytest.mark.parametrize(
    "flag",
    [
        *("s3-encoding", "s3-versions", "local-unicode-normalization", "local-no-check-updated", "links", "skip-links"),
        *("crypt-pass-bad-blocks", "gcs-decompress", "drive-skip-shortcuts", "metrics-addr", "modify-window"),
    ],
)
def test_a_flag_that_changes_names_content_or_what_is_left_out_is_refused(flag: str) -> None:
    assert flags.refusal(flag)


def test_a_flag_that_does_not_exist_is_refused_with_the_nearest() -> None:
    assert flags.refusal("transfer") == "rclone has no flag with this name; did you mean transfers?"


def test_only_ways_of_doing_something_can_be_disabled() -> None:
    assert flags.refusal("disable", "ListR, copy") is None
    assert "not 'partialuploads'" in str(flags.refusal("disable", "PartialUploads"))


def test_the_page_lists_each_decision() -> None:
    page = PAGE.read_text()
    section = page[page.index("<!-- flags:begin -->") : page.index("<!-- flags:end -->")]
    assert section.split("\n", 1)[1] == flags.table() + "\n"


def test_a_connection_string_is_parsed_as_rclone_does() -> None:
    parts = parse(""":s3,region=eu,env_auth,secret='a''b:,"',key="c""d":bucket/a:b""")
    assert parts is not None
    assert parts.options == {"region": "eu", "env_auth": "true", "secret": "a'b:,\"", "key": 'c"d'}
    assert (parts.name, parts.path) == (":s3", "bucket/a:b")
    assert parse("/srv/a,b:c") is None
    assert parse("masters:a,b=c:d") == ("masters", {}, "masters:", "a,b=c:d")


def test_a_connection_string_is_no_argument_but_a_remote_of_the_environment() -> None:
    shown, environment = hidden(["--x=a,b:c", "src:a,b", "s3,secret_access_key=hunter2:bucket/a", "/srv/a,b:c"])
    assert [shown[0], shown[1], shown[3]] == ["--x=a,b:c", "src:a,b", "/srv/a,b:c"]
    assert re.fullmatch(r"medusa_copier_[0-9a-f]{24}:bucket/a", shown[2])
    assert sorted(environment.values()) == ["alias", "s3,secret_access_key=hunter2:"]


def test_rclone_finds_the_remote_of_the_environment(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("there")
    shown, environment = hidden([f":local,hashes=md5:{tmp_path}/a"])
    done = subprocess.run([storage.RCLONE, "cat", *shown], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout == "there"
