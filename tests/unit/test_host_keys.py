"""Which SFTP servers are used without a look at their host key."""

from typing import Any

import pytest

from medusa_copier.rclone.configuration import Configuration
from medusa_copier.rclone.host_keys import Part, unchecked

SECTIONS = {
    "nas": {"type": "sftp", "host": "nas.example:22"},
    "safe": {"type": "sftp", "known_hosts_file": "/etc/known_hosts"},
    "openssh": {"type": "sftp", "ssh": "ssh -v nas"},
    "pinned": {"type": "sftp", "host_keys": "ssh-ed25519 AAAA"},
    "off": {"type": "sftp", "pin_host_key": "false", "known_hosts_file": ""},
    "s3": {"type": "s3"},
}


@pytest.mark.parametrize(
    ("fs", "found"),
    [
        ("nas:a", "the remote nas"),
        ("off:", "the remote off"),
        ("safe:", None),
        ("openssh:", None),
        ("pinned:", None),
        ("s3:nas", None),
        ("/nas:/a", None),
        ("nas,port=22:", "the remote nas"),
        ("nas,known_hosts_file=/a:", None),
        ("nas,pin_host_key:", None),
        ("nas,pin_host_key=false:", "the remote nas"),
        (":sftp,host=a:", ":sftp in the root"),
        (":sftp,host=a,known_hosts_file='/a b':", None),
        (":alias,remote=':sftp,host=a,known_hosts_file=''/a b'':':", None),
        (":alias,remote=':sftp,host=a:':", ":sftp in the root"),
        ("upstreams = safe: nas:a", "the remote nas"),
        ('upstreams = ":sftp,known_hosts_file=/a:" ":sftp,host=b:"', ":sftp in the root"),
        ("upstreams = a=safe: b=s3:", None),
    ],
)
def test_the_first_remote_that_checks_no_host_key_is_found(fs: str, found: str | None) -> None:
    assert unchecked([Part("the root", fs)], SECTIONS, {}) == found


def test_variables_of_the_environment_count() -> None:
    root = [Part("the root", "nas:")]
    assert unchecked(root, SECTIONS, {"RCLONE_SFTP_KNOWN_HOSTS_FILE": "/a"}) is None
    assert unchecked(root, SECTIONS, {"RCLONE_CONFIG_NAS_KNOWN_HOSTS_FILE": "/a"}) is None
    assert unchecked(root, SECTIONS, {"RCLONE_CONFIG_OTHER_KNOWN_HOSTS_FILE": "/a"}) == "the remote nas"
    assert unchecked([Part("the root", "s3:")], SECTIONS, {"RCLONE_CONFIG_S3_TYPE": "sftp"}) == "the remote s3"


@pytest.mark.parametrize(
    ("fs", "environment", "found"),
    [
        ("nas:a", {"RCLONE_CONFIG_NAS_TYPE": "sftp"}, "the remote nas"),
        ("my-nas:a", {"RCLONE_CONFIG_MY_NAS_TYPE": "sftp"}, "the remote my-nas"),
        ("nas:a", {"RCLONE_CONFIG_NAS_TYPE": "sftp", "RCLONE_CONFIG_NAS_KNOWN_HOSTS_FILE": "/a"}, None),
        ("nas,pin_host_key:a", {"RCLONE_CONFIG_NAS_TYPE": "sftp"}, None),
        ("nas:a", {"RCLONE_CONFIG_NAS_TYPE": "s3"}, None),
        ("/nas:a", {"RCLONE_CONFIG_NAS_TYPE": "sftp"}, None),
        (
            "far:a",
            {"RCLONE_CONFIG_FAR_TYPE": "alias", "RCLONE_CONFIG_FAR_REMOTE": "nas:x", "RCLONE_CONFIG_NAS_TYPE": "sftp"},
            "the remote nas",
        ),
    ],
)
def test_a_remote_that_only_the_environment_defines_counts(
    fs: str, environment: dict[str, str], found: str | None
) -> None:
    configuration = Configuration(_unused, _unused, None)
    assert configuration.unchecked_host(fs, environment) == found


def _unused() -> Any:
    raise AssertionError
