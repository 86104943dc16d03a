"""Training suites: which method reaches the target sooner, and predicts better."""
