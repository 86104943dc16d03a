"""Reads recorded results and sums them up: statistics, figures, report. Nothing here trains."""
