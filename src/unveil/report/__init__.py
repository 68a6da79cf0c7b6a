"""Trials to something a person can read: rows, verdicts, one self-contained HTML file, a table in the terminal."""

from unveil.report.conclusion import headline, recommendation
from unveil.report.html import write_report
from unveil.report.rows import Row, summarise
from unveil.report.table import print_table
from unveil.report.verdict import Level, Verdict, judge

__all__ = [
    "Level",
    "Row",
    "Verdict",
    "headline",
    "judge",
    "print_table",
    "recommendation",
    "summarise",
    "write_report",
]
