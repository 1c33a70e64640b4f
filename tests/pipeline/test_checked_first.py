"""What a run would otherwise fail of at its end is refused before the work."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gradsift.errors import ConfigError
from gradsift.pipeline import Run, parse_config
from gradsift.pipeline.warmup import warmup


@pytest.mark.parametrize(("prefix", "refused"), [("", "rank"), ("my_", "my_influence"), ("gradsift_", None)])
def test_samples_with_keys_that_a_selection_adds_are_refused(
    prefix: str, refused: str | None, record: dict[str, Any]
) -> None:
    source = Path(record["pool"]["sources"][0])
    rows = [json.loads(line) for line in source.read_text(encoding="utf-8").splitlines()]
    rows[3] |= {"rank": 1, "my_influence": 0.5}  # such as an earlier selection, which is to be narrowed down
    source.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    run = Run.open(parse_config(record | {"select": {"key_prefix": prefix}}, base=Path("/")))
    if refused is None:
        run.read_everything()
        return
    with pytest.raises(ConfigError, match=rf"select\.key_prefix: expected .*, got \['{refused}'\] in sample '.*-3'"):
        warmup(run)
