"""How long a run has trained: the time axis for comparing recipes at equal cost."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


class TrainingClock:
    """Seconds spent on updates, loading of data included; what happens inside `paused` does not count."""

    def __init__(self) -> None:
        self._counted = 0.0
        self._since: float | None = None  # when it last began to run; None while it stands

    def start(self, at: float = 0.0) -> None:
        """Run on from `at` seconds; a clock that runs already is left alone."""
        if self._since is None:
            self._counted, self._since = max(self._counted, at), time.perf_counter()

    def seconds(self) -> float:
        return self._counted + (0.0 if self._since is None else time.perf_counter() - self._since)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """For probes, evaluation and saving. A clock that stands already, nested or before training, stays so."""
        running = self._since is not None
        self._counted, self._since = self.seconds(), None
        try:
            yield
        finally:
            if running:
                self._since = time.perf_counter()
