"""The main loop of a run: each generation is decided in the shadow, committed, and followed by the body."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from evolution.daemon import events as e
from evolution.daemon import kernel_stage
from evolution.daemon.config import DaemonConfig, StrategyPlan
from evolution.daemon.follower import BodyError, Course
from evolution.daemon.generation import Judge, Parent, Scoring, evaluate, look_at
from evolution.daemon.lineage import Lineage
from evolution.daemon.reconcile import ForeignWeightsError
from evolution.daemon.remaining import Remaining
from evolution.daemon.run_state import RunState
from evolution.daemon.shadow import Shadow
from evolution.fitness.contract import Fitness
from evolution.strategies.contract import Strategy
from vboot.errors import VbootError
from vboot.protocol.errors import LinkLostError

LIMIT = "limit"
"""The first word of the reason when a limit has been reached."""
PROGRESS_EVERY_S = 1.0


class Follows(Protocol):
    """Makes a body, or files, follow the run."""

    def connect(self) -> bool:
        """One attempt to connect."""

    def tick(self, course: Callable[[], Course]) -> None:
        """Called between two evaluations."""

    def follow(self, course: Course) -> None:
        """Bring the body to the run's current weights."""

    def finish(self, course: Course) -> None:
        """At the end of the run: some more tries with a body that has refused the weights."""


class SearchHaltedError(Exception):
    """The run stops within a generation, which is repeated when the run is resumed."""


class SearchRun:
    """One run, resumed from the state in its folder."""

    def __init__(
        self,
        *,
        run: str,
        version: str,
        fitness: Fitness,
        plan: StrategyPlan,
        config: DaemonConfig,
        lineage: Lineage,
        shadow: Shadow,
        keeper: Follows,
        tell: Callable[[e.DaemonEvent], None],
        stop_reason: Callable[[], str | None],
    ) -> None:
        """`stop_reason` returns why to stop before a limit is reached, or None."""
        self._run = run
        self._version = version
        self._fitness = fitness
        self._plan = plan
        self._config = config
        self._lineage = lineage
        self._shadow = shadow
        self._keeper = keeper
        self._tell = tell
        self._stop_reason = stop_reason
        self._remaining = Remaining(config)
        self._began = 0.0
        self._next_progress = 0.0
        self._size = 0
        self._evaluating = 0.0

    def until_stopped(self) -> e.Stopped:
        """Run until a limit or a stop; the run's folder is consistent then. Raises InputError, ToolError."""
        resumed = self._lineage.state is not None
        state, strategy = self._begin()
        started = e.Started(
            version=self._version,
            run=self._run,
            strategy=strategy.name,
            tier=self._plan.tier(state.stage).name,
            seed=self._plan.seed,
            generation=state.generation,
            accepted=len(state.lineage),
            resumed=resumed,
        )
        self._tell(started)
        try:
            why = self._go_on(state, strategy)
        except (SearchHaltedError, BodyError, ForeignWeightsError, LinkLostError) as error:
            why = str(error)
            if not isinstance(error, SearchHaltedError):
                self._tell(e.Alarm("body" if isinstance(error, BodyError | ForeignWeightsError) else "shadow", why))
        self._snapshot()
        return self._stopped(why)

    def _begin(self) -> tuple[RunState, Strategy]:
        """The run's state and strategy, restored or new."""
        terrain = self._shadow.terrain
        state = self._lineage.state
        if self._config.kernel_every:
            kernel_stage.require_kernels(self._shadow)
        if state is not None:
            return state, self._plan.restore(state.strategy, terrain)
        strategy = self._plan.begin(terrain, 0)
        state = RunState(base=self._shadow.digest, strategy=strategy.state())
        self._lineage.save(state)
        return state, strategy

    def _go_on(self, state: RunState, strategy: Strategy) -> str:
        """Run generations; returns why they end."""
        parent = look_at(self._shadow, self._fitness)
        if state.best is None:
            state = replace(state, best=parent.calibration.score)
            self._lineage.save(state)
        self._keeper.connect()
        self._keeper.follow(self._course())
        # The time limit is for the search: loading and booting do not count, and one generation is always made.
        self._began, time_limit = time.monotonic(), None
        while True:
            if self._kernel_is_due(state):
                state = self._kernel(state)
            elif (why := self._stop_reason() or self._limit(state) or time_limit) is not None:
                self._keeper.finish(self._course())
                return why
            else:
                state, strategy, parent = self._generation(state, strategy, parent)
                time_limit = self._time_limit()

    def _generation(self, state: RunState, strategy: Strategy, parent: Parent) -> tuple[RunState, Strategy, Parent]:
        started, self._evaluating = time.monotonic(), 0.0
        self._remaining.begin(started - self._began, state.evaluations)
        scoring = Scoring(self._shadow, self._fitness, self._fitness.batch(state.generation))
        proposals = strategy.ask()
        self._size = len(proposals)
        evaluations = evaluate(
            strategy,
            proposals,
            scoring,
            evaluations=state.evaluations,
            tick=self._tick,
            tell=self._evaluated,
        )
        state, parent, accepted = self._move(replace(state, evaluations=evaluations), strategy, parent)
        strategy.settle(accepted)
        state = state.after_generation(accepted=accepted)
        state, strategy = self._steer(state, strategy)
        self._lineage.save(replace(state, strategy=strategy.state()))
        self._keeper.follow(self._course())
        self._snapshot_if_due(state)
        seconds = time.monotonic() - started
        self._tell(
            e.GenerationEnded(
                generation=state.generation - 1,
                accepted=accepted,
                fitness=parent.calibration.score,
                evaluations=evaluations,
                seconds=seconds,
                seconds_outside_evaluation=seconds - self._evaluating,
                model=state.model,
            )
        )
        self._remaining.end(time.monotonic() - self._began)
        self._progress(state.generation, evaluations, between=True)
        return self._saved, strategy, parent

    def _move(self, state: RunState, strategy: Strategy, parent: Parent) -> tuple[RunState, Parent, bool]:
        """Judge the strategy's move: the new state and parent, and whether it was accepted."""
        move = strategy.move()
        if move is None:
            return state, parent, False
        self._tick()
        assert state.best is not None, "known since the beginning"
        judge = Judge(self._shadow, self._fitness, self._config.admission, state.curve, state.best)
        started = time.monotonic()
        trial = judge.judge(move.edits, parent, fresh=self._fitness.batch(state.generation + 1))
        self._evaluating += time.monotonic() - started
        after = None if trial.after is None else trial.after.calibration.score
        self._tell(e.Judged(move.id, trial.confidence, trial.refusal, parent.calibration.score, after))
        if trial.outcome is not None:
            state = self._record(state, *trial.outcome)
        if trial.refusal is not None or trial.after is None or trial.change is None:
            if trial.change is not None:
                self._shadow.drop()
            return state, parent, False
        state = self._lineage.accept(
            state, move.id, "weights", move.edits, confidence=trial.confidence, model=trial.change.digest
        )
        self._shadow.keep()
        best = max(judge.best, trial.after.calibration.score)
        return replace(state, best=best), trial.after, True

    def _kernel_is_due(self, state: RunState) -> bool:
        every = self._config.kernel_every
        return bool(every and state.generation and state.generation % every == 0 and state.kernel_at < state.generation)

    def _kernel(self, state: RunState) -> RunState:
        """Search for a better kernel between two generations; committed separately."""
        self._tick()
        config = self._config
        plan = kernel_stage.KernelPlan(
            kernel_stage.kernel_seed(self._plan.seed, state.generation),
            config.kernel_generations,
            config.kernel_gain,
            config.admission.limits,
            state.curve,
        )
        now = None if state.kernel is None else kernel_stage.load(state.kernel)
        pairs = self._fitness.batch(state.generation)
        trial = kernel_stage.find_kernel(self._shadow, self._fitness, plan, pairs=pairs, now=now)
        move = f"{state.generation}.kernel"
        self._tell(e.Judged(move, trial.confidence, trial.refusal, trial.before, trial.after))
        state = replace(state, kernel_at=state.generation)
        if trial.refusal is not None:
            self._lineage.save(state)
            return self._saved
        edits = (trial.edit,)
        state = self._lineage.accept(state, move, "kernel", edits, confidence=trial.confidence, model=trial.digest)
        self._shadow.keep()
        self._lineage.save(replace(state, kernel=kernel_stage.dump(trial.kernel)))
        self._tell(e.KernelInjected(kernel_stage.SLOT, trial.before, trial.after, state.generation))
        self._keeper.follow(self._course())
        return self._saved

    def _record(self, state: RunState, raw: float, good: bool) -> RunState:
        """The state with one more outcome in CTRM's calibration curve."""
        curve = state.curve.record(raw, good)
        alarm = curve.alarm()
        if alarm is not None and state.curve.alarm() is None:
            self._tell(e.Alarm("confidence", alarm))
        return replace(state, curve=curve)

    def _steer(self, state: RunState, strategy: Strategy) -> tuple[RunState, Strategy]:
        """Switch to the next tier after too many generations without an accepted move."""
        stage = state.next_stage(stages=len(self._plan.tiers), barren_generations=self._config.barren_generations)
        if stage is None:
            return state, strategy
        name = self._plan.tier(stage).name
        self._tell(e.Steered("tier", f"{state.barren} generations without an accepted move, continuing with {name}"))
        return replace(state, stage=stage, barren=0), self._plan.begin(self._shadow.terrain, stage)

    def _tick(self) -> None:
        """Between two evaluations. Raises SearchHaltedError when the run is to stop."""
        why = self._stop_reason()
        if why is not None:
            raise SearchHaltedError(why)
        self._keeper.tick(self._course)

    def _course(self) -> Course:
        return self._lineage.course(self._run, self._shadow, self._fitness, watched_pairs=self._config.watched_pairs)

    def _evaluated(self, event: e.Evaluated) -> None:
        self._evaluating += event.seconds
        self._tell(event)
        self._progress(self._saved.generation, event.evaluations)

    def _progress(self, generation: int, evaluations: int, *, between: bool = False) -> None:
        """Tell how far the run is, at most once a second."""
        now = time.monotonic()
        if now < self._next_progress:
            return
        self._next_progress = now + PROGRESS_EVERY_S
        seconds = now - self._began
        left = self._remaining.left(
            seconds, generation=generation, evaluations=evaluations, size=self._size, between=between
        )
        self._tell(e.Progress(generation, evaluations, round(seconds, 3), None if left is None else round(left, 3)))

    def _limit(self, state: RunState) -> str | None:
        """The limit that is reached, or None."""
        config = self._config
        if config.generations is not None and state.generation >= config.generations:
            return f"{LIMIT} of {config.generations} generations reached"
        if config.max_evaluations is not None and state.evaluations >= config.max_evaluations:
            return f"{LIMIT} of {config.max_evaluations} evaluations reached"
        if config.max_seconds == 0:
            return f"{LIMIT} of 0 seconds reached"
        return None

    def _time_limit(self) -> str | None:
        """That the time is over, if it is."""
        limit = self._config.max_seconds
        if limit is None or time.monotonic() - self._began < limit:
            return None
        return f"{LIMIT} of {limit:g} seconds reached"

    def _snapshot_if_due(self, state: RunState) -> None:
        if len(state.lineage) - state.snapshot >= self._config.snapshot_every:
            self._snapshot()

    def _snapshot(self) -> None:
        """Save a snapshot; if that fails, more moves must be applied again after an interruption."""
        try:
            self._lineage.snapshot(self._shadow)
        except VbootError as error:
            self._tell(e.Alarm("snapshot", str(error)))

    @property
    def _saved(self) -> RunState:
        assert self._lineage.state is not None, "saved before"
        return self._lineage.state

    def _stopped(self, why: str) -> e.Stopped:
        state = self._saved
        stopped = e.Stopped(why, state.generation, len(state.lineage), state.evaluations, state.model)
        self._tell(stopped)
        return stopped
