"""No key that is accepted leaves its root, whatever the encoding of the remote: asked of a real rclone and servers."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medusa_copier.rclone.errors import RcloneError
from medusa_copier.rclone.facade import Rclone
from medusa_copier.rclone.location import Location
from medusa_copier.roots.locate import clean_key
from simple_queue_server import Failure
from tests.support.storage import StorageServer, rclone, serving

ENCODINGS = {"raw": "None", "slash": "Slash", "dot": "Dot", "standard": "Slash,Dot", "utf8": "InvalidUtf8"}
PIECES = st.sampled_from([".", "..", "．", "．．", "‛．", "‛", "a", "beside", "‛2E‛2E"])
SEPARATORS = st.sampled_from(["/", "／", "‛／", "‛‛／"])
KEYS = st.lists(st.tuples(PIECES, SEPARATORS), min_size=1, max_size=5).map(lambda pairs: "".join(map("".join, pairs)))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StorageServer]:
    """A root three levels deep; above and beside it, but not in it, there is a ``secret`` at each level."""
    base = tmp_path_factory.mktemp("dots") / "served"
    for level in ("", "1", "1/2", "1/2/beside"):
        (base / level).mkdir()
        (base / level / "secret").write_text("secret")
    (base / "1/2/root/a/a/a/a/a").mkdir(parents=True)
    with serving("sftp", base) as sftp:
        yield sftp


def written(server: StorageServer, directory: Path) -> Path:
    config = directory / "rclone.conf"
    sections = [server.section(name, encoding=encoding) for name, encoding in ENCODINGS.items()]
    config.write_text("".join([*sections, server.section("default")]))
    return config


@pytest.mark.parametrize("remote", [*ENCODINGS, "default"])
async def test_no_key_that_is_accepted_reaches_what_is_above_its_root(
    server: StorageServer, tmp_path: Path, remote: str
) -> None:
    keys: set[str] = set()

    @settings(max_examples=150, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(KEYS)
    def collect(key: str) -> None:
        with contextlib.suppress(Failure):
            keys.add(clean_key(f"{key}secret", "source_key"))

    collect()
    async with Rclone(config=written(server, tmp_path), flags={"low_level_retries": 1}, attempts=1) as running:
        for key in keys:
            with contextlib.suppress(RcloneError):
                assert await running.client.stat(Location(f"{remote}:1/2/root", key)) is None, key


@pytest.mark.parametrize("key", ["．．/secret", "..／beside/secret", "a／..／..／beside/secret", "a/．．/．．/secret"])
def test_rclone_itself_follows_what_is_refused_here(server: StorageServer, tmp_path: Path, key: str) -> None:
    """Else the refusal would be in vain, and other spellings the dangerous ones."""
    assert rclone(written(server, tmp_path), "cat", f"raw:1/2/root/{key}").stdout == "secret"


def test_a_directory_with_such_names_stays_in_the_target_by_the_default_encoding(
    server: StorageServer, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    (source / "．．").mkdir(parents=True)
    (source / "．．" / "evil").write_text("evil")
    (source / "．．" / "．．").write_text("evil")
    done = rclone(written(server, tmp_path), "copy", str(source), "default:1/2/root/target")
    assert done.returncode == 0, done.stderr
    found = sorted(str(path.relative_to(server.directory)) for path in server.directory.rglob("*") if path.is_file())
    assert found == sorted(
        [
            "secret",
            "1/secret",
            "1/2/secret",
            "1/2/beside/secret",
            "1/2/root/target/．．/evil",
            "1/2/root/target/．．/．．",
        ]
    )
