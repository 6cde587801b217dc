"""The report as one HTML file that needs no network: ``index.html`` beside ``index.md``."""

from benchmark.report.page.build import Section, section, write_page

__all__ = ["Section", "section", "write_page"]
