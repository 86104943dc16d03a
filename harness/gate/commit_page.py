"""From a benchmark's commit to its MLflow runs and the claims that rest on them: the page that asv's graphs link to.

``python -m harness.gate.commit_page FOLDER`` writes ``commits.html`` beside asv's ``index.html``; asv.conf.json's
``show_commit_url`` sends a click on a graph's point to ``commits.html#`` and the commit's hash.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import click
from jinja2 import Environment

from ..connection import tracking_uri
from ..errors import UserError
from ..store import write_atomically
from .recorded import RecordedSuite, recorded_at

__all__ = ["write_commit_page"]

LOCAL = "http://127.0.0.1:5000"  # where `make ui` shows a local database

TEMPLATE = """\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>Commits and their recorded runs</title>
<style>
body { font-family: sans-serif; max-width: 60em; margin: 2em auto; line-height: 1.4 }
section { padding: 0 1em; border-left: 4px solid transparent }
section:target { border-left-color: #06c; background: #eef4fb }
h2 { font: bold 1em monospace }
details a { font-family: monospace; margin-right: 1em }
</style>
<h1>Commits and their recorded runs</h1>
<p><a href="index.html">Benchmarks</a> · runs as MLflow has them ({{ uri }}){% if local %}; the links open in
<code>make ui</code>{% endif %}</p>
{% for commit, suites in commits %}
<section id="{{ commit }}">
<h2>{{ commit }}</h2>
{% for entry in suites %}
<details open><summary>suite {{ entry.suite }}, runs: {{ entry.runs | length }}
{% if entry.claims %}; claims that rest on them: {{ entry.claims | join(", ") }}{% endif %}</summary>
{% set experiment = server ~ "/#/experiments/" ~ entry.experiment_id %}
{% for run in entry.runs %}<a href="{{ experiment }}/runs/{{ run }}">{{ run[:8] }}</a>
{% endfor %}</details>
{% else %}
<p>Nothing is recorded at this commit.</p>
{% endfor %}
</section>
{% endfor %}
</html>
"""


def write_commit_page(folder: Path) -> Path:
    """Writes ``commits.html`` into ``folder``, where ``asv publish`` has put its page.

    Raises:
        UserError: asv has published nothing there, or the tracking store does not answer.
    """
    try:
        published = json.loads((folder / "index.json").read_text())
    except (OSError, json.JSONDecodeError):
        raise UserError(f"{folder}: asv has published nothing here; make bench-publish does") from None
    hashes = list(reversed(published["revision_to_hash"].values()))  # newest first
    recorded = recorded_at(hashes)
    write_atomically(folder / "commits.html", _rendered([(commit, recorded.get(commit, [])) for commit in hashes]))
    return folder / "commits.html"


def _rendered(commits: Sequence[tuple[str, list[RecordedSuite]]]) -> str:
    uri = tracking_uri()
    local = not uri.startswith("http")
    template = Environment(autoescape=True, trim_blocks=True).from_string(TEMPLATE)
    server = LOCAL if local else uri.rstrip("/")
    return template.render(commits=commits, uri=uri, local=local, server=server)


def main(folder: str) -> None:
    """Writes the page, and says where."""
    try:
        click.echo(f"commits and their runs: {write_commit_page(Path(folder))}")
    except UserError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main(sys.argv[1])
