"""Step-cost suites: what a step costs beside its rivals', and where its time goes."""
