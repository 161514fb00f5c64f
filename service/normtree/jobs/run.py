"""Running a job: from the recipe to files in place, or on from where a killed run has left them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from threading import RLock
from time import perf_counter, time_ns
from typing import Any, Literal

from normtree.engine.cluster.ray_environment import prepare_environment
from normtree.engine.kernels import prepare
from normtree.errors import JobConflict
from normtree.extras import has, missing
from normtree.jobs.checkpoint.checkpoint import Checkpoint, read_checkpoint
from normtree.jobs.journal.journal import Journal
from normtree.jobs.open_places import Places, open_places
from normtree.jobs.output import Output
from normtree.jobs.plan.job_plan import MIB, JobPlan, make_plan
from normtree.jobs.plan.pieces import TaskDone, TensorWork
from normtree.jobs.progress import Progress, Watch, unwatched
from normtree.jobs.recipe import Recipe
from normtree.jobs.report.floor import discard_floor, measure_floor
from normtree.jobs.report.outcome import JobOutcome
from normtree.jobs.report.report import HTML_NAME, write_report
from normtree.jobs.storage.places import Proof
from normtree.jobs.tasks.job_kernels import kernels_of
from normtree.jobs.tasks.on_threads import InlineRunner
from normtree.jobs.tasks.runner import Runner
from normtree.jobs.tasks.schedule import Aggregated, Schedule, Written
from normtree.processes import usable
from normtree_kernels.dtypes import Float64Array

Engine = Literal["auto", "inline", "ray"]
_PENDING_A_WORKER = 2
_FINISHERS = 2  # shards that are synced at once, while others are swept
_LEAST_MEMORY_BYTES, _MEMORY_A_WORKER_BYTES = 512 * MIB, 256 * MIB  # beyond that panels grow no more
_RAY_FROM_BYTES = 64 << 30  # starting an embedded Ray takes about ten seconds, which is little from here on


@dataclass(frozen=True)
class JobOptions:
    """How a job is run; none of it changes a byte of the output.

    Args:
        workers: tasks at once; None: the usable cores, or the CPUs of the cluster; fewer where memory holds no more.
        memory_bytes: bound of all buffers and aggregates together; None: what serves the workers, or what a tensor
            wants if that is more, and no more than half of the free memory.
        engine: ``inline`` (threads of this process), ``ray``, or ``auto``: Ray where an address is given, or where Ray
            is installed and the checkpoint so large that starting an embedded one does not matter.
        address: of a Ray cluster whose nodes share the storage.

    Raises:
        ExtraMissing: Ray is asked for, and not installed.
    """

    workers: int | None = None
    memory_bytes: int | None = None
    engine: Engine = "auto"
    address: str | None = None

    def __post_init__(self) -> None:
        """Find out before any work that there is no Ray."""
        if (self.engine == "ray" or self.address) and (error := missing("a job on Ray", "ray")):
            raise error

    def engine_for(self, checkpoint: Checkpoint) -> Literal["inline", "ray"]:
        """Settle ``auto``."""
        if self.engine != "auto":
            return self.engine
        large = checkpoint.nbytes >= _RAY_FROM_BYTES and has("ray")
        return "ray" if self.address or large else "inline"

    def bounds_bytes(self, workers: int) -> list[int]:
        """Bounds on memory to try, one after the other."""
        if self.memory_bytes is not None:
            return [self.memory_bytes]
        most = usable.free_memory_bytes() // 2
        return [min(most, max(_LEAST_MEMORY_BYTES, workers * _MEMORY_A_WORKER_BYTES)), most]


def plan_job(recipe: Recipe, options: JobOptions, roots: Sequence[Path] = ()) -> JobPlan:
    """Read an input's headers and plan a job, without doing anything.

    Raises:
        NormtreeError: as `run_job`.
    """
    return _plan(recipe, options, open_places(recipe, roots))


def run_job(recipe: Recipe, options: JobOptions, watch: Watch = unwatched, roots: Sequence[Path] = ()) -> JobOutcome:
    """Run a job to its end, or go on with one that was begun; what of its output is missing or differs is made again.

    Args:
        recipe: what to do.
        options: how.
        watch: called with the progress as tasks get done.
        roots: folders that it may not leave; none: it may.

    Raises:
        InvalidRecipe, InvalidCheckpoint, InvalidTensor: it cannot be done; nothing is in place that was not.
        JobConflict: another run, another output, or another input or recipe than the job was begun with.
        StorageFailed, StorageFull: a file cannot be read or written; run again, it resumes.
        EngineUnavailable, WorkersLost: Ray.
    """
    started, began_ns = perf_counter(), time_ns()
    places = open_places(recipe, roots)
    plan = _plan(recipe, options, places)
    if not Journal(places.state).begun:
        places.check_empty()
    with places.lock():
        journal = Journal(places.state)
        resumed = journal.begun
        journal.begin(places.recipe.digest, plan.checkpoint.versions())
        output = Output(places, plan.checkpoint, journal)
        job = _Job(plan, places, journal, output, watch)
        if journal.completed and output.is_whole:
            return _again(job)
        output.make_room(resumed=resumed)
        asked = perf_counter()
        with _runner(options, plan, places) as runner:
            start_s = perf_counter() - asked
            job.run(runner)
            job.check_balls()
            output.copy_others()
            output.check_end()
            wall_s = perf_counter() - started - start_s
            summary = {"engine": runner.engine, "workers": runner.workers, "nodes": runner.nodes}
            summary |= {"retries": runner.retries, "wall_s": wall_s, "start_s": start_s, "resumed": resumed}
            summary["began_ns"] = began_ns
        journal.note_completed({**summary, "stints": job.take_stints()}, output.proofs)
        journal.drop_aggregates()
        outcome = _outcome(job, resumed=resumed, was_completed=False)
        write_report(places.state, outcome, measure_floor(plan, places.source, places.target))
        return outcome


def _plan(recipe: Recipe, options: JobOptions, places: Places) -> JobPlan:
    checkpoint = read_checkpoint(places.source, places.only)
    workers = options.workers or usable.cores()
    in_order = places.source.streams or places.target.streams
    return make_plan(recipe, checkpoint, workers, options.bounds_bytes(workers), in_order=in_order)


def _again(job: "_Job") -> JobOutcome:
    """Tell what a job came to that was completed before and whose output is whole."""
    discard_floor(job.plan, job.places.target)
    outcome = _outcome(job, resumed=True, was_completed=True)
    if job.places.state.read(HTML_NAME) is None:  # the last run was killed just before it
        write_report(job.places.state, outcome, None)
    return outcome


@dataclass
class _Job:
    """The moving parts of one run."""

    plan: JobPlan
    places: Places
    journal: Journal
    output: Output
    watch: Watch
    lock: RLock = field(default_factory=RLock)  # two threads finish shards while this one takes in tasks
    stints: list[dict[str, Any]] = field(default_factory=list)
    bytes_done: int = 0
    schedule: Schedule | None = None

    def __post_init__(self) -> None:
        """Take in what is in place already."""
        self.shards = {shard.name: shard for shard in self.plan.checkpoint.shards}
        self.finished = {name: facts for name, facts in self.journal.finished.items() if name in self.output.proofs}
        self.tensors_done = sum(map(len, self.finished.values()))
        self.total_bytes = self.plan.checkpoint.shard_bytes + self.plan.swept_up_bytes

    def run(self, runner: Runner) -> None:
        """Do all tasks; shards are synced and put into place while others are worked on."""
        streams = self.places.target.streams
        self.schedule = schedule = Schedule(self.plan, self.finished, self._kept, streams=streams)
        missing = self.output.missing
        self.bytes_done = sum(self.shards[name].stat.size for name in self.finished)
        self.output.create(missing)
        self._tell()
        with ThreadPoolExecutor(_FINISHERS, thread_name_prefix="normtree-finish") as finishers:
            finishing: list[Future[None]] = []
            try:
                for event in _events(schedule, runner, self._take):
                    if isinstance(event, Aggregated):
                        self.journal.keep(event.vs, self._mark(self.plan.works[min(event.vs)]))
                    else:
                        finishing.append(finishers.submit(self._finish, event))
                    _raise_early(finishing)
                for future in finishing:
                    future.result()
            except BaseException:
                finishers.shutdown(cancel_futures=True)
                self.output.discard(missing)
                raise

    def check_balls(self) -> None:
        """See that shards of several runs lie in one ball where a rule has one for all of its tensors.

        Raises:
            JobConflict: they do not.
        """
        balls = {(facts.rule, facts.radius, facts.threshold) for each in self.finished.values() for facts in each}
        for rule in self.plan.global_rules:
            if sum(ball[0] == rule for ball in balls) > 1:
                raise JobConflict(
                    f"{self.places.source.url}: its tensors changed between two runs of the job: rules[{rule}] found "
                    f"another ball; remove {self.places.state.url} and the output to begin anew"
                )

    def take_stints(self) -> list[dict[str, Any]]:
        """Take the stints that no entry of the journal has yet."""
        taken, self.stints = self.stints, []
        return taken

    def _take(self, done: TaskDone) -> None:
        with self.lock:
            self.bytes_done += done.task.written or done.task.read
            self.stints.append(asdict(done.stint))
            self._tell()

    def _finish(self, written: Written) -> None:
        """Put a shard into place."""

        def note(proof: Proof) -> None:
            with self.lock:
                self.journal.note_shard(name, proof, written.facts, self.take_stints())

        name = written.shard.name
        self.output.put(name, written.shard.stat, note)
        with self.lock:
            self.finished[name] = written.facts
            self.tensors_done += len(written.facts)
            self._tell()

    def _kept(self, works: Sequence[TensorWork]) -> Mapping[int, Float64Array]:
        marks = {work.index: self._mark(work) for work in self.plan.works}
        return self.journal.kept({work.index: work.layout.v_shape for work in works}, marks)

    def _mark(self, work: TensorWork) -> str:
        return self.shards[work.shard].stat.changed

    def _tell(self) -> None:
        asked = self.schedule.asked_bytes if self.schedule else 0
        tensors, shards = len(self.plan.works), len(self.plan.checkpoint.shards)
        total = self.total_bytes + asked
        self.watch(Progress(self.bytes_done, total, self.tensors_done, tensors, len(self.finished), shards))


def _events(schedule: Schedule, runner: Runner, take: Callable[[TaskDone], None]) -> Iterator[Aggregated | Written]:
    """Keep the runner busy, and tell what gets completed."""
    pending = 0
    while True:
        while pending < _PENDING_A_WORKER * runner.workers and (task := schedule.next()):
            runner.submit(task)
            pending += 1
        if not pending:
            return
        done = runner.next()
        pending -= 1
        take(done)
        yield from schedule.done(done)


def _raise_early(futures: list[Future[None]]) -> None:
    for future in futures:
        if future.done():
            future.result()


@contextmanager
def _runner(options: JobOptions, plan: JobPlan, places: Places) -> Iterator[Runner]:
    """Start what does the tasks, kernels loaded."""
    runner: Runner
    source, target = places.source, places.target
    kernels = kernels_of(plan)
    prepare(kernels)  # in this process first: it fills the cache that the others read, and finds roots
    if options.engine_for(plan.checkpoint) == "ray":
        prepare_environment(embedded=options.address is None)
        from normtree.jobs.tasks.on_ray import RayRunner

        is_free = options.workers is None and plan.workers == plan.asked_workers
        runner = RayRunner(source, target, kernels, None if is_free else plan.workers, options.address)
    else:
        runner = InlineRunner(source, target, plan.workers)
    try:
        yield runner
    finally:
        runner.close()


def _outcome(job: _Job, *, resumed: bool, was_completed: bool) -> JobOutcome:
    journal = job.journal
    facts = tuple(each for shard in job.plan.checkpoint.shards for each in job.finished[shard.name])
    unsaid = ("what", "stints", "proofs")
    summary = {name: value for name, value in (journal.completed or {}).items() if name not in unsaid}
    return JobOutcome(job.plan, facts, tuple(journal.stints), summary, job.places.state.url, resumed, was_completed)
