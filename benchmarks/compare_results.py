"""Whether two checkouts give the same results: python benchmarks/compare_results.py BEFORE AFTER [SCALE].

Run a scale in both first. Tidy results are compared byte for byte; times, which never come out equal twice, are named
among the differences.
"""

import json
import sys
from pathlib import Path


def differences(before: Path, after: Path) -> list[str]:
    """The studies whose tidy results are not the same bytes, and those whose facts differ, with the keys that do."""
    names = sorted({path.name for folder in (before, after) for path in folder.glob("*.parquet")})
    found = []
    for name in names:
        one, other = before / name, after / name
        if not (one.exists() and other.exists() and one.read_bytes() == other.read_bytes()):
            found.append(f"{one.stem}: results differ or are missing")
        facts = [
            json.loads(p.with_suffix(".json").read_text()) for p in (one, other) if p.with_suffix(".json").exists()
        ]
        if len(facts) == 2 and facts[0] != facts[1]:
            keys = [key for key in facts[0] | facts[1] if facts[0].get(key) != facts[1].get(key)]
            found.append(f"{one.stem}: facts differ in {', '.join(keys)}")
    return [f"{len(names)} studies compared", *found]


if __name__ == "__main__":
    scale = sys.argv[3] if len(sys.argv) > 3 else "smoke"
    print(*differences(*(Path(root, "results", scale, "tidy") for root in sys.argv[1:3])), sep="\n")
