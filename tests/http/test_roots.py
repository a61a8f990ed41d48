"""Roots over HTTP: which a token sees, and what is in them, a page at a time."""

from collections.abc import Iterator

import pytest

from simple_queue_server.http.tokens import hash_of
from tests.support.http import Api, service_with_api
from tests.support.service import World

SECRETS = {name: f"the token of {name}, long enough" for name in ("all", "reader", "nobody")}
TOKENS = [
    {"name": "all", "hash": hash_of(SECRETS["all"])},
    {"name": "reader", "hash": hash_of(SECRETS["reader"]), "roots": {"src": "read", "dst": "read"}},
    {"name": "nobody", "hash": hash_of(SECRETS["nobody"]), "roots": {}},
]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[World, str]]:
    world = World(tmp_path_factory.mktemp("world"), "", {})
    roots = {
        "src": {"rclone_config": str(world.src), "access": "read"},
        "dst": {"rclone_config": str(world.dst), "access": "write", "overwrite": "never", "max_in_flight": 1},
        "ghost": {"rclone_config": "ghost"},
    }
    world.write_config(roots=roots)
    with service_with_api(world, tokens=TOKENS) as (url, _):
        yield world, url


@pytest.fixture
def world(served: tuple[World, str]) -> World:
    return served[0]


def api(served: tuple[World, str], name: str = "all") -> Api:
    return Api(served[1], SECRETS[name])


async def test_a_token_sees_the_roots_that_it_may_use_and_what_for(served: tuple[World, str]) -> None:
    async with api(served) as all_of_them:
        roots = (await all_of_them.get("/v1/roots")).json["roots"]
        assert [(root["name"], root["access"]) for root in roots] == [
            ("src", "read"),
            ("dst", "write"),
            ("ghost", "read-write"),
        ]
        assert roots[1] == {"name": "dst", "access": "write", "overwrite": "never", "max_in_flight": 1}
        seen = [(await all_of_them.as_(SECRETS[name]).get("/v1/roots")).json["roots"] for name in ("reader", "nobody")]
        assert [[root["name"] for root in roots] for roots in seen] == [["src"], []]
        refused = await all_of_them.as_(SECRETS["reader"]).get("/v1/roots/dst/list")
        assert refused.status == 404


async def test_a_directory_is_listed_with_sizes_and_times_and_names_as_they_are_stored(
    served: tuple[World, str], world: World
) -> None:
    directory = world.src / "films" / "a b"
    (directory / "inner").mkdir(parents=True)
    (directory / "x.mov").write_bytes(b"123")
    (directory / "tab\tand\u2409.mov").write_bytes(b"")
    async with api(served) as there:
        listing = (await there.get("/v1/roots/src/list?key=films/a%20b/")).json
        top = (await there.get("/v1/roots/src/list")).json
    names = {entry["name"]: entry for entry in listing["entries"]}
    assert set(names) == {"inner", "x.mov", "tab\tand\u2409.mov"}
    assert names["x.mov"]["key"] == "films/a b/x.mov"
    assert (names["x.mov"]["size_bytes"], names["x.mov"]["is_directory"]) == (3, False)
    assert (names["inner"]["size_bytes"], names["inner"]["is_directory"]) == (None, True)
    assert names["x.mov"]["modified"][:2] == "20"
    assert listing["cursor"] is None
    assert [entry["key"] for entry in top["entries"]] == ["films"]


async def test_a_large_directory_comes_page_by_page_each_name_once_directories_first(
    served: tuple[World, str], world: World
) -> None:
    (world.dst / "many").mkdir()
    files = sorted(f"{number}.txt" for number in range(150))
    directories = sorted(f"{number}" for number in range(120))
    for name in files:
        (world.dst / "many" / name).touch()
    for name in directories:
        (world.dst / "many" / name).mkdir()
    seen: list[str] = []
    cursor: str | None = ""
    async with api(served) as there:
        while cursor is not None:
            page = (
                await there.get(f"/v1/roots/dst/list?key=many&limit=100{f'&cursor={cursor}' if cursor else ''}")
            ).json
            seen += [entry["name"] for entry in page["entries"]]
            cursor = page["cursor"]
    assert seen == directories + files


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("nowhere/list", 404, "no root 'nowhere'"),
        ("src/list?key=not/there", 404, "no directory src:not/there"),
        ("src/list?key=../up", 400, "'..'"),
        ("src/list?key=a%00b", 400, "NUL"),
        ("src/list?key=out", 400, "symbolic link"),
        ("src/list?limit=0", 400, "limit"),
        ("ghost/list", 502, "ghost"),
    ],
)
async def test_what_can_not_be_listed_is_reported_with_the_reason(
    served: tuple[World, str], world: World, path: str, status: int, words: str
) -> None:
    if not (world.src / "out").is_symlink():
        (world.src / "out").symlink_to(world.dst)
    async with api(served) as there:
        answer = await there.get(f"/v1/roots/{path}")
    assert answer.status == status
    assert words in answer.json["detail"]
