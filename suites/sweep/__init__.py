"""What the harness itself costs: ``python -m suites.sweep 2000``."""
