"""Whether a follower lives: what it says once a second, and what it does not say.

Looks are counted and no clock is read, so that a machine that stood still for a night lost nobody in the morning.

Knows nothing about sockets.
"""

from __future__ import annotations

LOOK_S = 1.0
SILENT_LOOKS = 4  # of a follower that says every second that it is there
# Of one that cannot say so: it loads libraries, or joins the group, and one call of C holds all of its Python.
EXCUSED_LOOKS = 600
STILL_BEATS = 2


class Life:
    """One follower's. Belongs to the thread that listens to it; any thread may ask whether it is still."""

    def __init__(self) -> None:
        self.is_excused = True  # until it has begun, and whenever somebody says so
        self._silent = 0
        self._beats_still = 0

    @property
    def silence_s(self) -> float:
        return self._silent * LOOK_S

    @property
    def is_still(self) -> bool:
        """Whether it has computed nothing since some beats, on a device where that can be told."""
        return self._beats_still >= STILL_BEATS

    def nothing(self) -> bool:
        """It said nothing for a look; whether that was one too many."""
        self._silent += 1
        return self._silent >= (EXCUSED_LOOKS if self.is_excused else SILENT_LOOKS)

    def something(self) -> None:
        self._silent = 0

    def begun(self) -> None:
        """It is ready."""
        self.is_excused = False

    def beat(self, works: bool) -> None:
        """works: whether any of its threads does."""
        self._beats_still = 0 if works else self._beats_still + 1
