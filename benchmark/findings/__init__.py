"""The paper's claims, and what stored runs say for and against each."""
