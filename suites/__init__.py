"""The suites shipped with the project: YAML sweeps, claims, and the asv benchmarks."""
