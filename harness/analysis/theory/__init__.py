"""Theory suites: what the theorems' network does, beside what theory says of it."""
