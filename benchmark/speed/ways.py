"""Names of the ways to train side by side, as tables show them."""

PLAIN, SUITE = "plain", "suite"
WITH_BF16, WITH_MPS = "suite, bf16", "suite, MPS"
