"""Write docs/advice-NAME.svg: the picture of leakage against accuracy from the page of an advice.

python docs/advice_picture.py advice/quickstart advice/resnet8
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

DOCS = Path(__file__).parent
CHART = re.compile(r'<svg class="chart".*?</svg>', re.DOTALL)
STYLE = re.compile(r"<style>(.*?)</style>", re.DOTALL)
FONT = ".chart{font-family:system-ui,sans-serif;background:var(--page)}"


def standalone(page: str) -> str:
    """The first chart of a page as an SVG file of its own, with the page's style sheet.

    Args:
        page: The page's HTML.
    """
    chart, style = CHART.search(page), STYLE.search(page)
    if chart is None or style is None:
        raise SystemExit("the page has no chart; run `unveil advise` to its end")
    opened, rest = chart.group().split(">", 1)
    return f'{opened} xmlns="http://www.w3.org/2000/svg"><style>{style.group(1)}{FONT}</style>{rest}\n'


if __name__ == "__main__":
    for folder in map(Path, sys.argv[1:]):
        page = (folder / "advice.html").read_text(encoding="utf-8")
        (DOCS / f"advice-{folder.name}.svg").write_text(standalone(page), encoding="utf-8")
