"""Tables and figures from stored results. Nothing here needs torch."""
