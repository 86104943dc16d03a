"""The peers benchmark: python -m suites.peers, or make peers, which makes the environments first."""

import tempfile
from pathlib import Path

import click

from .figure import draw
from .measure import FULL, QUICK
from .networks import SHARED, WORKLOADS
from .peers import OURS
from .record import Record, Row, read, write
from .run import TITLES, Runner, run
from .statistics import ratio, wrong
from .table import markdown, number

RESULTS = Path("results/peers")
PATIENCE = 120  # seconds: make peers has just installed the libraries
SCRATCH = Path(".peers")  # what is not a complete run does not replace one


@click.command()
@click.option("--only", "peers", multiple=True, type=click.Choice(list(TITLES["peers"])), help="These peers alone.")
@click.option(
    "--workload",
    "workloads",
    multiple=True,
    type=click.Choice(list(WORKLOADS)),
    help="These alone; mlp-wide, mlp-small and mlp-batch are for ours only.",
)
@click.option("--quick", is_flag=True, help="A few rounds of each case: to see that it works.")
@click.option("--jax", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Python with somax.")
@click.option("--redraw", is_flag=True, help="Measure nothing: table and figure anew from the recorded peers.json.")
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    help=f"Folder for the results; {RESULTS} for a complete run, {SCRATCH} for any other.",
)
def main(
    peers: tuple[str, ...],
    workloads: tuple[str, ...],
    quick: bool,
    jax: Path | None,
    redraw: bool,
    output: Path | None,
) -> None:
    """Gram matrix and step of ggn_core beside other libraries, as a ratio to SGD's step in the same process."""
    if workloads and peers and OURS not in peers and not set(workloads) & set(SHARED):
        raise click.UsageError(f"--workload {', '.join(workloads)}: measured for {OURS} only, which --only leaves out")
    complete = not (peers or workloads or quick)
    folder = (output or (RESULTS if complete else SCRATCH)).resolve()
    path = folder / "peers.json"
    if redraw:
        if not path.exists():
            raise click.UsageError(f"no recorded run in {folder}: run without --redraw first")
        record = read(path)
    else:
        folder.mkdir(parents=True, exist_ok=True)
        chosen_peers, chosen_workloads = peers or tuple(TITLES["peers"]), workloads or tuple(WORKLOADS)
        with tempfile.TemporaryDirectory() as scratch:
            record = run(
                # absolute() and not resolve(): the python of an environment is a link that must not be followed.
                Runner(jax.absolute() if jax else None, Path(scratch)),
                chosen_peers,
                chosen_workloads,
                QUICK if quick else FULL,
                report=lambda row: click.echo(_line(row)),
                save=lambda unfinished: write(unfinished, path),
                patience=PATIENCE if complete else 0,
            )
    _publish(record, folder)
    click.echo(f"{folder / 'peers.md'}")


def _publish(record: Record, folder: Path) -> None:
    draw(record, folder / "peers")
    (folder / "peers.md").write_text(markdown(record))


def _line(row: Row) -> str:
    interval = ratio(row)
    parts = [f"{row.workload:28}{row.peer:12}{row.quantity:6}"]
    if interval is not None:
        parts.append(f"{number(interval.median):>7} × SGD ({interval.size} pairs)")
    if row.error is not None:
        parts.append(f"error {row.error:.1e}{', wrong' if wrong(row) else ''}")
    if row.peak_mib is not None:
        parts.append(f"{row.peak_mib:,.0f} MiB")
    if row.reason is not None:
        parts.append(row.reason)
    return "  ".join(parts)


if __name__ == "__main__":
    main()
