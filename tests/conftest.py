"""Settings for all tests."""

from hypothesis import HealthCheck, settings

# How long an example takes says something about the machine and its other work, and nothing about the code: bounds of
# time are shown by bounds of work.
settings.register_profile("no clock", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("no clock")
