"""The harness: data, splits, cells, stored results, metrics, statistics and reports.

It knows nothing of how a method works, and nothing here needs torch once the ranked lists of a
run are stored.
"""
