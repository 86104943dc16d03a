"""ggn gate: does a commit make anything slower, heavier or less exact than another? Answered by pairs, not by history.

commits.py lays the source of both commits side by side; process.py starts a process on each, with worker.py inside;
pairs.py lets them time the same benchmark in turns, in random order; verdict.py judges the ratios with intervals.py;
gate.py goes through the suite and measures again what is not settled; table.py shows the result.
"""
