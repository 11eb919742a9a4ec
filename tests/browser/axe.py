"""What axe-core finds wrong with a page."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from playwright.sync_api import Page

SOURCE = (Path(__file__).parent / "vendor" / "axe.min.js").read_text(encoding="utf-8")
GRAVE = ("serious", "critical")
RULES = ("wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice")


def problems_of(page: "Page", *, only: str | None = None) -> list[str]:
    """Return a line per serious or critical problem: the rule, what it says, and where.

    ``only`` names the one rule to check, such as ``color-contrast``.
    """
    if not page.evaluate("'axe' in window"):
        # By the debugger, not as a script of the page: its policy lets no foreign script in.
        page.evaluate(SOURCE + "; undefined")
    rules = [only] if only else list(RULES)
    found: dict[str, Any] = page.evaluate(
        "rules => axe.run({ runOnly: rules, resultTypes: ['violations'] })", rules
    )
    return [
        f"{one['id']} ({one['impact']}): {one['help']}: {node['target']}: {node['failureSummary']}"
        for one in found["violations"]
        if one["impact"] in GRAVE
        for node in one["nodes"]
    ]
