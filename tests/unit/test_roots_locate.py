"""Keys: what is refused, what is taken out, and that every other legal name goes through unchanged."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medusa_copier.rclone.location import Location
from medusa_copier.roots.locate import clean_key, locate
from medusa_copier.settings import RootSection
from simple_queue_server import Failure

ROOTS = {"src": RootSection(rclone_config="local"), "bucket": RootSection(rclone_config="s3:b/prefix")}

segments = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1).filter(
    lambda segment: not {".", "..", "．", "．．"}.intersection(re.split(r"[／\\]", segment))
)


def located(root: str, key: str) -> Location:
    return locate(ROOTS, root, key, "source_")


def refusal(root: str, key: str) -> str:
    with pytest.raises(Failure) as raised:
        located(root, key)
    return raised.value.message


def test_a_root_and_a_key_are_a_place() -> None:
    assert located("src", "a/b.txt") == Location("local:", "a/b.txt")
    assert located("bucket", "a/b.txt") == Location("s3:b/prefix", "a/b.txt")


@pytest.mark.parametrize(
    ("key", "clean"),
    [
        ("/a.txt", "a.txt"),
        ("///a", "a"),
        ("a//b", "a/b"),
        ("./a", "a"),
        ("a/./b", "a/b"),
        ("dir/", "dir"),
        ("a/.", "a"),
    ],
)
def test_what_means_nothing_in_a_key_is_taken_out_as_rclone_does(key: str, clean: str) -> None:
    assert clean_key(key, "source_key") == clean


@given(st.lists(segments, min_size=1, max_size=6))
def test_every_other_legal_name_goes_through_unchanged(names: list[str]) -> None:
    key = "/".join(names)
    assert clean_key(key, "source_key") == key
    assert clean_key("/" + key, "source_key") == key


@given(st.text(st.sampled_from("./a\0 ")), st.sampled_from(["source_key", "target_key"]))
def test_a_key_is_cleaned_or_refused_by_name_and_never_leaves_its_root(key: str, parameter: str) -> None:
    try:
        clean = clean_key(key, parameter)
    except Failure as failure:
        assert failure.message.startswith(parameter)
    else:
        assert clean
        assert not clean.startswith("/")
        assert "\0" not in clean
        assert not {"", ".", ".."} & set(clean.split("/"))


@pytest.mark.parametrize("key", ["..", "../a", "a/..", "a/../b", "/../a", "./.."])
def test_a_segment_that_goes_up_is_refused(key: str) -> None:
    assert refusal("src", key).startswith("source_key")


@pytest.mark.parametrize("key", ["...", "..a", "a..", "a..b/c"])
def test_dots_that_do_not_go_up_are_legal(key: str) -> None:
    assert clean_key(key, "source_key") == key


@pytest.mark.parametrize("key", ["", "/", "//", ".", "./"])
def test_an_empty_key_is_refused(key: str) -> None:
    assert "source_key" in refusal("src", key)
    assert "empty" in refusal("src", key)


def test_a_nul_is_refused() -> None:
    assert "NUL" in refusal("src", "a\0b")


def test_an_unknown_root_is_refused_naming_it_and_those_that_are_known() -> None:
    assert refusal("nowhere", "a") == (
        "Unrecognized root was provided: source_root 'nowhere' is not configured; known: bucket, src"
    )


@pytest.mark.parametrize("key", ["a" * 32_001, "é" * 16_001, "a/" * 17_000])
def test_a_key_that_no_command_holds_is_refused_by_name(key: str) -> None:
    assert refusal("src", key).startswith("source_key is ")
    assert refusal("src", key).endswith(" bytes long; it can't be longer than 32000")
    assert clean_key(key[:16_000], "source_key") == key[:16_000].removesuffix("/")


@pytest.mark.parametrize(
    "key",
    [
        *("．．", "．", "a/．．/b", "a/．", "．．/．．/a"),
        *("..／a", "a／..", "a／．．／b", "x／..／..／a", "‛／../a", "a‛‛／.."),
        *("..\\a", "a\\..\\..\\b", "a\\.."),
    ],
)
def test_every_spelling_of_dots_is_refused(key: str) -> None:
    assert "segment; write the key from the root down" in refusal("src", key)


@pytest.mark.parametrize(
    "key", ["．．．", "a．．", "．．a", "a..／b", "...", "a／b", "a\\b", "‛．", "..a\\b..", "．htaccess"]
)
def test_dots_and_their_likes_in_other_names_mean_nothing(key: str) -> None:
    assert clean_key(key, "source_key") == key
