"""Gram matrix and step beside those of other libraries: `make peers`."""
