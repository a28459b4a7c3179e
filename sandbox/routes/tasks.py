"""Tasks (fact sheet 3.8)."""

ROUTES: list = []
