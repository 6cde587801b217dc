"""Stored results for use elsewhere: tidy files, and bundles that another machine reports from."""
