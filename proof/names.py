"""Names that are difficult for storages, encodings and tools: paths below a directory, as the bytes on disk."""

from __future__ import annotations

import re
from typing import Final

PLAIN: Final = (b"a.txt", b"b.bin", b"sub/c.txt", b"sub/deeper/d.tif", b"e")

ODD: Final[dict[str, tuple[bytes, ...]]] = {
    "composed": ("café.txt".encode(),),
    "decomposed": ("cafe\u0301.txt".encode(),),
    "twins": ("café.txt".encode(), "cafe\u0301.txt".encode()),
    "twin directories": ("é/one".encode(), "e\u0301/two".encode(), "e\u0301/one".encode()),
    "case twins": (b"Report.txt", b"report.TXT"),
    "Latin-1": (b"caf\xe9.txt",),
    "Latin-1 twins": (b"caf\xe9", b"caf\xe8", b"caf\xef\xbf\xbd"),
    "Latin-1 directory": (b"\xfcber/file",),
    "control characters": (b"a\x01b\x1fc\x7f",),
    "line break": (b"new\nline",),
    "carriage return": (b"re\rturn",),
    "tab": (b"t\ta\tb",),
    "C1 and bidi": ("a\u0085b\u202ec".encode(),),
    "percent": (b"100%25 %2e%2e %",),
    "trailing dot": (b"end.",),
    "trailing space": (b"end ",),
    "leading space": (b" begin",),
    "dots": (b"...", b".hidden"),
    "very long": (b"n" * 255,),
    "long in two bytes each": ("é".encode() * 80,),
    "emoji": ("🗃️ 📼".encode(),),
    "quotes": (b'it\'s "quoted" `so`',),
    "leading dash": (b"-rf", b"--config"),
    "backslash": (b"a\\b",),
    "glob": (b"*?[x]{a,b}",),
    "query": (b"a?b=c&d#e;f+g",),
    "colon": (b"c:d", b":local:x"),
    "fullwidth": ("％４１：＊".encode(),),
    "fullwidth slash": ("a／b".encode(),),
    "fullwidth dots": ("．．".encode(), "．/x".encode()),
    "quoting mark": ("a‛b‛／".encode(),),
    "symbols for control": ("␊␀".encode(),),
    "replacement character": ("a\ufffdb".encode(),),
    "ends like rclone's": (b"x.partial", b"y.rclonelink"),
    "Windows": (b"CON", b"aux.txt", b"a<b>|c"),
}
"""By their oddity; the names of one entry are in the same directory."""

TRANSLATED: Final = frozenset({"fullwidth slash", "fullwidth dots", "quoting mark", "symbols for control"})
"""What rclone writes instead of characters that a storage doesn't support; a server that is rclone itself decodes it.
"""


SHOWN_BY_SYMBOLS: Final = frozenset({"control characters", "line break", "carriage return", "tab"})
"""A server that is rclone itself shows these under other names than the disk."""
TOO_LONG_ENCRYPTED: Final = frozenset({"very long", "long in two bytes each"})


SPELLED: Final = re.compile("‛‛([0-9A-F]{2})".encode())


def as_rclone_means_it(key: bytes) -> bytes:
    """The name that rclone makes again of an S3 key: it writes a byte that is not UTF-8 as ``‛E9``, and its server that
    key with the mark doubled."""
    return SPELLED.sub(lambda found: bytes.fromhex(found[1].decode()), key)


def is_text(path: bytes) -> bool:
    """Whether a request can name it."""
    try:
        path.decode()
    except UnicodeDecodeError:
        return False
    return True
