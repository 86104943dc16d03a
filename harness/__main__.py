"""``python -m harness`` is ``ggn``."""

from .cli import main

if __name__ == "__main__":
    main(prog_name="ggn")
