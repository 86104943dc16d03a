"""Small networks, each with something about it that a rule has to get right."""
