"""EvolutionDaemonV7: improves a body generation by generation, and recovers from crashes of body, shadow and itself.

    daemon = EvolutionDaemonV7(BridgeBody(model), model, fitness, StrategyPlan("antithetic_es", (tier,)), folder)
    stopped = daemon.run()

Decisions are made in a shadow (`generation`), committed to the run's folder (`lineage`), then followed by the body
(`keeper`, `follower`). So a run that is killed at any moment can be resumed, and ends with the same weights.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from evolution.daemon import events as e
from evolution.daemon import identity
from evolution.daemon.body import Body, FileBody
from evolution.daemon.config import DaemonConfig, StrategyPlan
from evolution.daemon.files import FallbackFiles, FileKeeper
from evolution.daemon.follower import Follower
from evolution.daemon.keeper import Keeper
from evolution.daemon.lineage import Lineage
from evolution.daemon.log import EventFile, log_to_logging
from evolution.daemon.run_folder import EvolutionRunFolder
from evolution.daemon.search_run import SearchRun
from evolution.daemon.shadow import Shadow
from evolution.fitness.contract import Fitness
from vboot.client.signer import Signer
from vboot.errors import InputError, VbootError
from vboot.protocol.messages import Stats

_ROLLBACKS, _ROLLBACK_SECONDS = 3, 600.0
"""The run stops after more rollbacks than this within this time."""
_SLICE_S = 0.1


class EvolutionDaemonV7:
    """Runs one search on one body. Not thread-safe, except for `stop`."""

    version = "EvolutionDaemonV7 (Rust-Native)"

    def __init__(
        self,
        body: Body,
        model: Path,
        fitness: Fitness,
        strategy: StrategyPlan,
        run_folder: Path,
        *,
        config: DaemonConfig | None = None,
        listeners: Sequence[e.Listener] = (),
        signer: Signer | None = None,
    ) -> None:
        """`model` is the GGUF file that the body began with; `signer` signs changes, if it takes signed ones only.

        Raises InputError for invalid settings.
        """
        self._config = config or DaemonConfig()
        if isinstance(body, FileBody) != (self._config.mode == "file"):
            raise InputError("the mode `file` requires a FileBody, and a FileBody the mode `file`")
        self._model = model
        self._signer = signer
        self._fitness = fitness
        self._plan = strategy
        self._run_folder = run_folder
        self._listeners: list[e.Listener] = [log_to_logging, *listeners]
        self._body = body
        self._keeper = self._keeper_of(body)
        self._is_stopping = False
        self._stop_reason = "stopped"
        self._rollbacks: deque[float] = deque(maxlen=_ROLLBACKS + 1)
        self._folder: EvolutionRunFolder | None = None
        self._events: EventFile | None = None
        self.result: Path = model
        """The model file after the run has stopped; the initial model while no move was accepted."""

    def connect(self) -> bool:
        """Connect to the body; whether it answers. A failure becomes an event and is not raised."""
        try:
            return self._keeper.connect()
        except VbootError as error:
            self._tell(e.Alarm("body", error.what))
            return False

    def get_stats(self) -> Stats | None:
        """The body's counters; None for a file, or when the body does not answer."""
        return self._keeper.stats()

    def stop(self) -> None:
        """Make `run` end after the current evaluation; from any thread or signal handler."""
        self._is_stopping = True

    def run(self) -> e.Stopped:
        """Run until a limit is reached, `stop` is called, or a failure cannot be recovered; returns why.

        Raises InputError when the folder, the model, the strategy or the data cannot be used.
        """
        try:
            return self._run()
        finally:
            self._keeper.close()
            if self._events is not None:
                self._listeners.remove(self._events)
                self._events.close()
            if self._folder is not None:
                self._folder.close()
            self._events = self._folder = None

    def _run(self) -> e.Stopped:
        self._folder = EvolutionRunFolder(self._run_folder)
        settings = identity.settings(self._model, self._fitness, self._plan, self._config, version=self.version)
        run = self._folder.identify(settings)
        lineage = Lineage(self._folder, self._model, self._folder.load())
        self._events = EventFile(self._folder.events)
        self._listeners.append(self._events)
        shadow = Shadow(lineage.ways, tell=self._tell, signer=self._signer)
        try:
            search = SearchRun(
                run=run,
                version=self.version,
                fitness=self._fitness,
                plan=self._plan,
                config=self._config,
                lineage=lineage,
                shadow=shadow,
                keeper=self._keeper,
                tell=self._tell,
                stop_reason=lambda: self._stop_reason if self._is_stopping else None,
            )
            stopped = search.until_stopped()
            self.result = lineage.newest_model()
            return stopped
        finally:
            shadow.close()

    def _keeper_of(self, body: Body) -> Keeper | FileKeeper:
        if isinstance(body, FileBody):
            return FileKeeper(body, self._tell)
        files = FallbackFiles(self._model, self._run_folder / "v6")
        follower = Follower(body, self._config, self._tell)
        return Keeper(follower, self._config, files, tell=self._tell, wait=self._wait)

    def _tell(self, event: e.DaemonEvent) -> None:
        for listener in self._listeners:
            listener(event)
        if isinstance(event, e.RolledBack):
            self._rollbacks.append(time.monotonic())
            if len(self._rollbacks) > _ROLLBACKS and self._rollbacks[-1] - self._rollbacks[0] < _ROLLBACK_SECONDS:
                self._rollbacks.clear()
                self._stop_reason = f"more than {_ROLLBACKS} rollbacks in {_ROLLBACK_SECONDS / 60:g} minutes"
                self._is_stopping = True
                self._tell(e.Alarm("rollbacks", self._stop_reason))

    def _wait(self, seconds: float) -> bool:
        """Pause; False if the daemon is to stop. In slices, as a signal handler must not set a threading.Event."""
        until = time.monotonic() + seconds
        while not self._is_stopping and (left := until - time.monotonic()) > 0:
            time.sleep(min(left, _SLICE_S))
        return not self._is_stopping
