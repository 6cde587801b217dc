"""Differentiable semantic IDs: tokenizer, estimators, recommender, decoder and trainer.

Nothing in this package imports the harness.
"""
