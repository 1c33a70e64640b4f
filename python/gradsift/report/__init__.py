"""One self-contained HTML page about a selection."""

from __future__ import annotations

from gradsift.report.page import ExampleGroup, ShownSample, ShownTarget, render, require_report

__all__ = ["ExampleGroup", "ShownSample", "ShownTarget", "render", "require_report"]
