"""Benchmarks for asv: `make bench`."""
