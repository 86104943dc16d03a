"""``python -m suites.run_asv …`` is ``asv …``, without its questions and without a file in the home folder.

asv wants to know the machine before it measures: it asks at a terminal, refuses elsewhere, and keeps the answers in
``~/.asv-machine.json``. Here it gets what it would propose itself, in ``.asv/machine.json`` of the checkout. The name
can be set by ``GGN_MACHINE``: results of machines whose host name changes, as in CI, then still belong together.
"""

import os
from pathlib import Path

__all__ = ["main"]

MACHINE_FILE = Path(".asv/machine.json")


def main() -> None:
    """Runs asv's command line in the working folder."""
    from asv.machine import Machine, MachineCollection
    from asv.main import main as asv

    facts = Machine.get_defaults()
    facts["machine"] = os.environ.get("GGN_MACHINE") or facts["machine"]
    MACHINE_FILE.parent.mkdir(exist_ok=True)
    MACHINE_FILE.unlink(missing_ok=True)  # one machine only: asv then needs no --machine
    MachineCollection.save(facts["machine"], facts, _path=str(MACHINE_FILE))
    MachineCollection.get_machine_file_path = staticmethod(lambda: str(MACHINE_FILE))
    Machine.get_unique_machine_name = staticmethod(lambda: facts["machine"])
    asv()


if __name__ == "__main__":
    main()
