"""The page of the paper's claims: verdicts, numbers, figures."""
