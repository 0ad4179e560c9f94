"""What holds for all tests."""

from hypothesis import settings

# Timing never decides a test.
settings.register_profile("e2rank", deadline=None)
settings.load_profile("e2rank")
