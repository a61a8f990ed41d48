"""Which of rclone's flags an operator may set, in ``rclone.flags``, in the environment, or for a single remote.

Every global flag of rclone is listed here by name. The backends' flags are listed in ``backend_flags.txt``; those not
named or matched here are allowed. A flag in neither list is refused: it may change what counts as copied, and rclone
ignores unknown names in its environment.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Final, TypeVar

T = TypeVar("T")


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


ALLOWED: Final = _words(
    """
    auto-confirm bind buffer-size bwlimit bwlimit-file ca-cert cache-dir check-first checkers client-cert client-key
    client-pass color contimeout disable disable-http-keep-alives disable-http2 dscp expect-continue-timeout fast-list
    fs-cache-expire-duration fs-cache-expire-interval header header-download header-upload http-proxy kv-lock-time
    list-cutoff low-level-retries max-backlog max-buffer-memory max-connections metadata metadata-exclude
    metadata-exclude-from metadata-filter metadata-filter-from metadata-include metadata-include-from metadata-mapper
    metadata-set multi-thread-chunk-size multi-thread-cutoff multi-thread-streams multi-thread-write-buffer-size
    no-check-certificate no-console no-gzip-encoding no-traverse no-update-dir-modtime no-update-modtime order-by
    password-command retries retries-sleep server-side-across-configs streaming-upload-cutoff temp-dir timeout tpslimit
    tpslimit-burst transfers use-cookies use-mmap user-agent
    """
)
"""Flags for speed, the network and metadata: none affects which content is copied, or what counts as copied."""

RESIDENT_ONLY: Final = _words(
    """
    cpuprofile human-readable log-level max-stats-groups memprofile progress progress-terminal-title quiet stats
    stats-file-name-length stats-log-level stats-one-line stats-one-line-date stats-one-line-date-format stats-unit
    verbose
    """
)
"""Flags for the resident rclone but not for the commands of ``copy``, whose output is parsed."""

COMPARES_HASHES: Final = "checksum"
"""Allowed in ``rclone.flags`` only, and never passed to rclone: the service requests it copy by copy, for storages
that have a hash of every file. For others, rclone would compare only the size.
"""

REFUSED: Final[Mapping[str, str]] = {
    "other content at the target would be reported as copied; use overwrite in requests and roots": """
        ignore-existing ignore-size size-only update""",
    "files in another location would be reported as copied, or be copied from there": "compare-dest copy-dest",
    "storages without a common hash would be compared by size only; set it in rclone.flags": "checksum",
    "a damaged copy would be reported as a success": "ignore-checksum",
    "a time other than the content's modification time would decide what is unchanged": """
        default-time modify-window refresh-times use-server-modtime""",
    "use overwrite in requests and roots": "ignore-times immutable no-check-dest",
    "names are compared and written as they are stored": """
        fix-case ignore-case-sync name-transform no-unicode-normalization""",
    "symbolic links would be created at the target, under other names": "links local-links",
    "files would be omitted silently; use include, exclude and max_depth in requests": """
        exclude exclude-from exclude-if-present files-from files-from-raw files-from0 filter filter-from hash-filter
        ignore-case include include-from max-age max-depth max-size min-age min-size one-file-system skip-links
        skip-specials""",
    "a copy would end before everything is copied; use bwlimit to slow it down": """
        cutoff-mode max-duration max-transfer""",
    "a copy that finds everything in place would be reported as a failure": "error-on-no-transfer",
    "replaced files would be moved outside the configured roots": "backup-dir suffix suffix-keep-extension",
    "the service deletes and moves nothing at the target": """
        delete-after delete-before delete-during delete-excluded ignore-errors max-delete max-delete-size track-renames
        track-renames-strategy""",
    "files would be written through symbolic links at the target, and be visible while incomplete": "inplace",
    "the service sets it for each copy": "partial-suffix",
    "every copy would be reported as a success without being made": "dry-run",
    "nobody can answer a prompt; set the password in RCLONE_CONFIG_PASS": "ask-password",
    "nobody can answer a prompt": "interactive",
    "set rclone_config_path instead": "config",
    "credentials for the storages would be logged": "dump dump-bodies dump-headers",
    "rclone's log lines are part of the service's log": """
        log-file log-file-compress log-file-max-age log-file-max-backups log-file-max-size log-format log-systemd syslog
        syslog-facility use-json-log""",
}
"""Reason → the flags refused for it."""

REFUSED_PATTERNS: Final[Mapping[str, str]] = {
    "the service controls rclone itself": r"(rc|metrics)(-.*)?",
    "names other than those stored would be read and written; set it for the one remote that needs it": (
        r".*-encoding|local-(unicode-normalization|case-(in)?sensitive)|smb-case-insensitive"
        r"|crypt-(.*encryption|suffix|show-mapping)|drive-(.*formats|allow-import-name-change)|dropbox-export-formats"
        r"|http-(no-slash|no-escape)|cloudinary-adjust-.*|pikpak-no-media-link"
    ),
    "files would be omitted silently": (
        r".*-(skip-(links|gdocs|shortcuts|dangling-shortcuts|exports|project-folders|.*-folders))"
        r"|.*-(trashed-only|starred-only|shared-with-me|auth-owner-only|owned-by|only-signed|start-year)"
        r"|dropbox-shared-(files|folders)|webdav-owncloud-exclude-.*"
    ),
    "older or deleted content would be copied as if it were current": (
        r"(b2|imagekit|s3)-versions|.*-(version-at|version-deleted)"
    ),
    "a time other than the content's modification time would decide what is unchanged": (
        r"local-time-type|drive-use-(created|shared)-date"
    ),
    "sizes or hashes would not be verified, or differ from what is stored": (
        r".*-decompress|.*-no-head-object|http-no-head|drive-size-as-quota|drive-skip-checksum-.*|ftp-no-check-upload"
        r"|internxt-skip-hash-validation|local-zero-size-links|protondrive-original-file-size"
    ),
    "a file that changes during the copy would be reported as copied": "local-no-check-updated",
    "damaged content would be copied as if it were intact": "crypt-pass-bad-blocks",
    "the copy would be the same file as its source": "sftp-copy-is-hardlink",
}
"""Reason → a pattern for the full names of flags refused for it."""

FEATURES: Final = _words(
    """
    about changenotify cleanup copy dirmove dirsetmodtime disconnect listp listr mergedirs mkdirmetadata move
    openchunkwriter openwriterat publiclink purge putstream putunchecked serversideacrossconfigs userinfo
    """
)
"""What the flag ``disable`` may turn off: operations for which rclone has a fallback."""

_COMPILED: Final = {reason: re.compile(pattern) for reason, pattern in REFUSED_PATTERNS.items()}
_REASONS: Final = {name: reason for reason, names in REFUSED.items() for name in names.split()}


def flag_name(name: str) -> str:
    """A flag's name as in rclone's manual, without leading dashes: ``fast_list`` → ``fast-list``."""
    return name.lstrip("-").lower().replace("_", "-")


def refusal(flag: str, value: object = None) -> str | None:
    """Why ``flag`` (a flag_name) can't be set to this ``value``; None if it can."""
    if flag in ALLOWED:
        return _feature_refusal(value) if flag == "disable" else None
    if flag in RESIDENT_ONLY:
        return None
    if reason := _REASONS.get(flag):
        return reason
    for reason, pattern in _COMPILED.items():
        if pattern.fullmatch(flag):
            return reason
    return None if flag in backend_flags() else f"rclone has no flag with this name{_nearest(flag)}"


def without_comparison(flags: Mapping[str, T]) -> tuple[dict[str, T], bool]:
    """``rclone.flags`` without ``checksum``, and whether that is set."""
    rest = {name: value for name, value in flags.items() if flag_name(name) != COMPARES_HASHES}
    return rest, any(value not in (False, "false") for name, value in flags.items() if name not in rest)


def is_known(flag: str) -> bool:
    """Whether ``flag`` is listed here, allowed or refused."""
    named = flag in ALLOWED | RESIDENT_ONLY or flag in _REASONS or flag in backend_flags()
    return named or any(pattern.fullmatch(flag) for pattern in _COMPILED.values())


@cache
def backend_flags() -> frozenset[str]:
    """All flags of rclone's backends."""
    return frozenset(Path(__file__).with_name("backend_flags.txt").read_text("ascii").split())


def _feature_refusal(value: object) -> str | None:
    features = [] if value is None else [part.strip().lower() for part in str(value).split(",")]
    if wrong := sorted(set(features) - FEATURES):
        return f"of rclone's features only these can be disabled, not {wrong[0]!r}: {', '.join(sorted(FEATURES))}"
    return None


def _nearest(flag: str) -> str:
    found = difflib.get_close_matches(flag, [*ALLOWED, *RESIDENT_ONLY, *backend_flags()], 1)
    return f"; did you mean {found[0]}?" if found else ""


def table() -> str:
    """The lists as a Markdown table, for the documentation."""
    rows = [
        ("allowed", _shown(ALLOWED) + "; of the backends' all that aren't below"),
        ("allowed, for the resident rclone alone", _shown(RESIDENT_ONLY)),
        (
            "allowed in `rclone.flags`, for storages that have a hash of every file; for others size and time decide",
            _shown({COMPARES_HASHES}),
        ),
    ]
    for reason in sorted({*REFUSED, *REFUSED_PATTERNS}):
        pattern = _COMPILED.get(reason)
        names = {name for name in backend_flags() if pattern and pattern.fullmatch(name)}
        names -= set(_REASONS)
        if reason == "the service controls rclone itself":
            names = {"rc", "rc-…", "metrics-…"}
        rows.append((reason, _shown({*REFUSED.get(reason, "").split(), *names})))
    lines = ["| | flags |", "| --- | --- |", *(f"| {reason} | {names} |" for reason, names in rows)]
    return "\n".join(lines)


def _shown(names: set[str] | frozenset[str]) -> str:
    """``…-encoding`` stands for about sixty flags."""
    short = {"…-encoding" if name.endswith("-encoding") else name for name in names}
    return ", ".join(f"`{name}`" for name in sorted(short))
