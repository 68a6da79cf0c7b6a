"""From trials to rows, verdicts, one self-contained HTML file and a table in the terminal."""

from unveil.report.conclusion import headline, recommendation
from unveil.report.html import write_report
from unveil.report.levels import Level, Verdict
from unveil.report.notice import notice
from unveil.report.pooling import summarise
from unveil.report.rows import Row
from unveil.report.table import print_table

__all__ = [
    "Level",
    "Row",
    "Verdict",
    "headline",
    "notice",
    "print_table",
    "recommendation",
    "summarise",
    "write_report",
]
