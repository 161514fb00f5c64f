"""What all tests share: the profiles of the property tests."""

from hypothesis import settings

# On top of Hypothesis' own default, which is another one on CI. The first call of a kernel compiles it,
# so no example has a deadline; pytest's timeout guards the test.
settings.register_profile("house", settings.default, deadline=None)
settings.register_profile("fuzz", settings.default, deadline=None, max_examples=5_000)
settings.load_profile("house")
