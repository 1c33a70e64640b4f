"""Run by .ci/run after `gradsift demo`: the run directory holds what its README promises, and the effect is there."""

import json
import re
import sys
from pathlib import Path

run = Path(sys.argv[1])
results = json.loads((run / "results.json").read_text(encoding="utf-8"))
for names in re.findall(r"^\| (`.*?) \|", (run / "README.md").read_text(encoding="utf-8"), flags=re.MULTILINE):
    for name in re.findall(r"`(.*?)`", names):
        pattern = re.sub(r"STEP|NAME|-N(?=/)", lambda m: "-*" if m.group() == "-N" else "*", name).rstrip("/")
        assert any(run.glob(pattern)), f"{name} is missing from the run directory"
for target, groups in results["targets"].items():
    base, random, selected = (sum(groups[g]["loss"]) / len(groups[g]["loss"]) for g in ("base", "random", "selected"))
    print(f"{target}: base {base:.4f}, random {random:.4f}, selected {selected:.4f}")
    assert selected < random, f"{target}: training on the selection must beat training on random samples"
