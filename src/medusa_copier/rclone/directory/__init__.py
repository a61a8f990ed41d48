"""Copies a directory with rclone's own engine, and accounts for each of its files. The names below are all that the
actions use; ``copy`` has the steps in order.
"""

from __future__ import annotations

from medusa_copier.rclone.directory.copy import DirectoryCopy
from medusa_copier.rclone.directory.manifest import ManifestTarget
from medusa_copier.rclone.directory.options import FILTER_LIMITS, Selection
from medusa_copier.rclone.directory.result import DirectoryResult, NamedFile

__all__ = ["FILTER_LIMITS", "DirectoryCopy", "DirectoryResult", "ManifestTarget", "NamedFile", "Selection"]
