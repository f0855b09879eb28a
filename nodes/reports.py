"""Reports that nodes hand out as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from ..models.references import PhotoReport


def report_json(report: Iterable[PhotoReport], **summary: Any) -> str:
    """One JSON object: the summary, counts by status, and one entry per photo."""
    photos = [asdict(entry) for entry in report]
    counts = {status: sum(photo["status"] == status for photo in photos) for status in ("kept", "repeated", "dropped")}
    return json.dumps({**summary, **counts, "photos": photos}, indent=2)
