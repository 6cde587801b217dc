"""How fast the methods train and rank, beside a plain reference that does the same work."""
