"""A verdict as a Markdown table."""

from __future__ import annotations

from chaos.table import markdown
from proof.verdict import FLAWS, Verdict


def table(verdict: Verdict) -> str:
    """A row for each trouble, and one for all."""
    shown = ["cases", "successes", "honest failures", "damage missed as documented"]
    flaws = [flaw for flaw in FLAWS if flaw in FLAWS[:5] or verdict.flaws[flaw]]
    lines = [["", *shown, *flaws]]
    for trouble, counts in verdict.by_trouble.items():
        lines.append([trouble, *(str(counts[name]) for name in (*shown, *flaws))])
    whole = [verdict.cases, *(verdict.notes[name] for name in shown[1:]), *(verdict.flaws[flaw] for flaw in flaws)]  # type: ignore[index]
    lines.append(["**all**", *map(str, whole)])
    return markdown(lines)
