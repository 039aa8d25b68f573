"""How Hypothesis draws: the same few examples in every run. `--hypothesis-profile=explore` draws many fresh ones."""

from hypothesis import settings

settings.register_profile("steady", max_examples=6, deadline=None, derandomize=True, database=None)
settings.register_profile("explore", max_examples=200, deadline=None)
settings.load_profile("steady")
