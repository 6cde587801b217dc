"""From a named source to canonical interactions, leave-one-out splits and item embeddings."""
