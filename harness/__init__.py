"""harness: sweeps that compare GGN with other optimizers, tracked in MLflow and summed up in a report."""
