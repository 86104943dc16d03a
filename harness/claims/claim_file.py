"""Reads claim files, and tells whether one has changed."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

from ..errors import UserError, unknown_name
from ..stepcost_suite import StepCostSuite
from ..suite import Suite
from ..suite_file import SUITES, load_suite, read_mapping, shipped_suites
from ..training_suite import Tuning
from .claim import Claim

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

__all__ = ["CLAIMS", "fingerprint", "load_claims", "suites_of"]

CLAIMS = SUITES / "claims"

# No verdict rests on these: the trials with untuned settings, and the ratio up to which a step counts as near.
ONLY_SHOWN = {(Tuning, "defaults"), (StepCostSuite, "margin")}


def load_claims(names: Sequence[str] = (), folder: Path = CLAIMS) -> list[Claim]:
    """Reads the claims of a folder, in the order of their numbers.

    Args:
        names: Which claims; all if empty.
        folder: Where their files are.

    Raises:
        UserError: No such claim, or something in a file is not allowed; the message names file, key and what is.
    """
    read = sorted(map(_read, folder.glob("*.yaml")), key=lambda claim: (claim.number, claim.claim))
    claims = {claim.claim: claim for claim in read}
    for name in names:
        if name not in claims:
            raise UserError(unknown_name("claim", name, claims))
    return [claim for name, claim in claims.items() if not names or name in names]


def suites_of(claims: Iterable[Claim], full: bool) -> dict[str, Suite]:
    """The suites that measure these claims, by name, in their short or their long version."""
    names = dict.fromkeys(name for claim in claims for name in claim.suites())
    return {name: load_suite(name, default_threads=1, full=full) for name in names}


def fingerprint(claim: Claim, suites: dict[str, Suite]) -> str:
    """Digest of all that a verdict depends on besides the samples: the claim, and the suites with their targets.

    What stands at its default is left out, so that a new setting of a method does not make other claims of old ones;
    and so is what only the suite's own page shows.
    """
    content = {"claim": _told(claim), "suites": {name: _told(suites[name]) for name in claim.suites()}}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _told(value: Any) -> Any:
    """A configuration as plain data: what differs from its default, and names."""
    if isinstance(value, BaseModel):
        fields = type(value).model_fields
        return {
            key: _told(getattr(value, key))
            for key, field in fields.items()
            if (key == "name" or getattr(value, key) != field.get_default(call_default_factory=True))
            and (type(value), key) not in ONLY_SHOWN
        }
    if isinstance(value, list | tuple):
        return [_told(entry) for entry in value]
    if isinstance(value, dict):
        return {key: _told(entry) for key, entry in value.items()}
    return str(value) if isinstance(value, Path) else value


def _read(path: Path) -> Claim:
    raw = read_mapping(path, "a claim")
    try:
        claim = Claim.model_validate(raw)
    except ValidationError as error:
        raise UserError("\n".join(_message(path, item) for item in error.errors())) from None
    if claim.claim != path.stem:
        raise UserError(f"{path}: claim: the file's name says '{path.stem}', found '{claim.claim}'")
    for name in claim.suites():
        if name not in shipped_suites():
            raise UserError(f"{path}: suite: {unknown_name('suite', name, shipped_suites())}")
    return claim


def _message(path: Path, item: "ErrorDetails") -> str:
    place = ".".join(str(part) for part in item["loc"])
    value = "" if isinstance(item["input"], dict | list | tuple) else f", found {item['input']!r}"
    return f"{path}: {place + ': ' if place else ''}{item['msg'].removeprefix('Value error, ')}{value}"
