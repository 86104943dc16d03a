"""The paper's claims: files that say what would show them, and verdicts that anyone can recompute."""
