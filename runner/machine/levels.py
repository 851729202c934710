"""The one level of detail in the log that Python has no name for.

Knows nothing about anything: a number.
"""

TRACE = 5  # below DEBUG; every token and every cache entry
