"""Which claims rest on a suite's runs: those whose files name the suite in one of their parts."""

from pathlib import Path

import yaml

import suites

__all__ = ["CLAIMS", "claims_by_suite"]

CLAIMS = Path(suites.__file__).parent / "claims"


def claims_by_suite(folder: Path = CLAIMS) -> dict[str, list[str]]:
    """Suite → names of the claims in ``folder``; a file that names no suite links to nothing."""
    found: dict[str, list[str]] = {}
    for path in sorted(folder.glob("*.yaml")):
        content = yaml.safe_load(path.read_text())
        if not isinstance(content, dict):
            continue
        parts = [part for part in content.get("parts", []) if isinstance(part, dict)]
        for suite in dict.fromkeys(str(part["suite"]) for part in parts if "suite" in part):
            found.setdefault(suite, []).append(str(content.get("claim", path.stem)))
    return found
