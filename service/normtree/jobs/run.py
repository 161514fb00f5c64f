"""Running a job: from the recipe to files in place, or on from where a killed run has left them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from threading import RLock
from time import perf_counter, time_ns
from typing import Any, Literal

from normtree import usable
from normtree.engine.environment import prepare_environment
from normtree.errors import JobConflict, StorageFailed, StorageFull
from normtree.jobs.checkpoint import Checkpoint, read_checkpoint
from normtree.jobs.floor import discard_floor, measure_floor
from normtree.jobs.inline import InlineRunner
from normtree.jobs.journal import NAME, Journal
from normtree.jobs.open_places import check_empty, open_source, open_state, open_target
from normtree.jobs.outcome import Outcome
from normtree.jobs.pieces import Done, Work
from normtree.jobs.places import Folder, Target
from normtree.jobs.plan import MIB, JobPlan, make_plan
from normtree.jobs.progress import Progress, Watch, unwatched
from normtree.jobs.recipe import Recipe
from normtree.jobs.report import HTML_NAME, write_report
from normtree.jobs.runner import Runner
from normtree.jobs.schedule import Aggregated, Schedule, Written
from normtree.jobs.state import State
from normtree.jobs.warm import kernels_of, warm
from normtree_kernels.dtypes import Float64Array

Engine = Literal["auto", "inline", "ray"]
_PENDING_A_WORKER = 2
_FINISHERS = 2  # shards that are synced at once, while others are swept
_LEAST_MEMORY_BYTES, _MEMORY_A_WORKER_BYTES = 512 * MIB, 256 * MIB  # beyond that panels grow no more
_ROOM_BYTES = 16 * MIB  # beyond the output: journal, aggregates, report
_RAY_FROM_BYTES = 64 << 30  # starting an embedded Ray takes about ten seconds, which is little from here on


@dataclass(frozen=True)
class Options:
    """How a job is run; none of it changes a byte of the output.

    Args:
        workers: tasks at once; None: the usable cores, or the CPUs of the cluster; fewer where memory holds no more.
        memory_bytes: bound of all buffers and aggregates together; None: what serves the workers, or what a tensor
            wants if that is more, and no more than half of the free memory.
        engine: ``inline`` (threads of this process), ``ray``, or ``auto``: Ray where an address is given or the
            checkpoint is so large that starting an embedded one does not matter.
        address: of a Ray cluster whose nodes share the storage.
    """

    workers: int | None = None
    memory_bytes: int | None = None
    engine: Engine = "auto"
    address: str | None = None

    def engine_for(self, checkpoint: Checkpoint) -> Literal["inline", "ray"]:
        """Settle ``auto``."""
        if self.engine != "auto":
            return self.engine
        return "ray" if self.address or checkpoint.nbytes >= _RAY_FROM_BYTES else "inline"

    def bounds_bytes(self, workers: int) -> list[int]:
        """Bounds on memory to try, one after the other."""
        if self.memory_bytes is not None:
            return [self.memory_bytes]
        most = usable.free_memory_bytes() // 2
        return [min(most, max(_LEAST_MEMORY_BYTES, workers * _MEMORY_A_WORKER_BYTES)), most]


def plan_job(recipe: Recipe, options: Options) -> JobPlan:
    """Read an input's headers and plan a job, without doing anything.

    Raises:
        NormtreeError: as `run_job`.
    """
    source, only = open_source(recipe.input)
    in_order = source.streams or open_target(recipe.output, only).streams
    checkpoint = read_checkpoint(source, only)
    workers = options.workers or usable.cores()
    return make_plan(recipe, checkpoint, workers, options.bounds_bytes(workers), in_order=in_order)


def run_job(recipe: Recipe, options: Options, watch: Watch = unwatched) -> Outcome:
    """Run a job to its end, or go on with one that was begun.

    Args:
        recipe: what to do.
        options: how.
        watch: called with the progress as tasks get done.

    Raises:
        InvalidRecipe, InvalidCheckpoint, InvalidTensor: it cannot be done; nothing is in place that was not.
        JobConflict: another run, another output, or another input or recipe than the job was begun with.
        StorageFailed, StorageFull: a file cannot be read or written; run again, it resumes.
        EngineUnavailable, WorkersLost: Ray.
    """
    started, began_ns = perf_counter(), time_ns()
    plan = plan_job(recipe, options)
    source, only = open_source(recipe.input)
    target, state = open_target(recipe.output, only), open_state(recipe.output)
    if state.read(NAME) is None:
        check_empty(recipe.output, target)
    with state.lock():
        journal = Journal(state)
        resumed = journal.begun
        journal.begin(recipe.digest, plan.checkpoint.versions())
        if journal.completed:
            discard_floor(plan, target)
            outcome = _outcome(plan, journal, state, resumed=True, was_completed=True)
            if state.read(HTML_NAME) is None:  # the last run was killed just before it
                write_report(state, outcome, None)
            return outcome
        job = _Job(plan, source, target, journal, watch)
        job.check_room()
        asked = perf_counter()
        with _runner(options, plan, source, target) as runner:
            start_s = perf_counter() - asked
            job.run(runner)
            job.copy_others()
            _check_same(plan.checkpoint, source)
            wall_s = perf_counter() - started - start_s
            summary = {"engine": runner.engine, "workers": runner.workers, "nodes": runner.nodes}
            summary |= {"retries": runner.retries, "wall_s": wall_s, "start_s": start_s, "resumed": resumed}
            summary["began_ns"] = began_ns
        journal.note_completed({**summary, "stints": job.take_stints()})
        journal.drop_aggregates()
        outcome = _outcome(plan, journal, state, resumed=resumed, was_completed=False)
        write_report(state, outcome, measure_floor(plan, source, target))
        return outcome


@dataclass
class _Job:
    """The moving parts of one run."""

    plan: JobPlan
    source: Folder
    target: Target
    journal: Journal
    watch: Watch
    lock: RLock = field(default_factory=RLock)  # two threads finish shards while this one takes in tasks
    stints: list[dict[str, Any]] = field(default_factory=list)
    bytes_done: int = 0
    schedule: Schedule | None = None

    def __post_init__(self) -> None:
        """See what is in place already."""
        sizes = {shard.name: shard.stat.size for shard in self.plan.checkpoint.shards}
        self.finished = {
            name: facts for name, facts in self.journal.finished.items() if _in_place(self.target, name, sizes[name])
        }
        self.tensors_done = sum(map(len, self.finished.values()))
        self.total_bytes = self.plan.checkpoint.shard_bytes + self.plan.swept_up_bytes

    def check_room(self) -> None:
        """Refuse to begin what the disk has no room for.

        Raises:
            StorageFull: it has not.
        """
        free = self.target.free_bytes()
        checkpoint = self.plan.checkpoint
        for shard in checkpoint.shards:
            if shard.name not in self.finished:
                self.target.discard(shard.name)
        left = checkpoint.nbytes - sum(shard.stat.size for shard in checkpoint.shards if shard.name in self.finished)
        if free is not None and left + _ROOM_BYTES > free:
            raise StorageFull(
                f"{self.target.url}: {left + _ROOM_BYTES:,} bytes are wanted for the output, {free:,} are free",
                limit=free,
                got=left + _ROOM_BYTES,
            )

    def run(self, runner: Runner) -> None:
        """Do all tasks; shards are synced and put into place while others are worked on."""
        self.schedule = schedule = Schedule(self.plan, self.finished, self._kept, streams=self.target.streams)
        unfinished = [shard for shard in self.plan.checkpoint.shards if shard.name not in self.finished]
        self.bytes_done = sum(shard.stat.size for shard in self.plan.checkpoint.shards if shard.name in self.finished)
        for shard in unfinished:
            self.target.create(shard.name, shard.stat.size)
        self._tell()
        with ThreadPoolExecutor(_FINISHERS, thread_name_prefix="normtree-finish") as finishers:
            finishing: list[Future[None]] = []
            try:
                for event in _events(schedule, runner, self._take):
                    if isinstance(event, Aggregated):
                        self.journal.keep(event.vs)
                    else:
                        finishing.append(finishers.submit(self._finish, event))
                    _raise_early(finishing)
                for future in finishing:
                    future.result()
            except BaseException:
                finishers.shutdown(cancel_futures=True)
                for shard in unfinished:
                    self.target.discard(shard.name)
                raise

    def copy_others(self) -> None:
        """Copy the files that are no shards, when all shards are in place: until then nothing takes them for whole."""
        for name, stat in self.plan.checkpoint.others.items():
            self.target.create(name, stat.size)
            with self.source.reader(name) as reader, self.target.sink(name, stat.size) as sink:
                sink.copy(reader, 0, stat.size)
            self.target.finish(name)

    def take_stints(self) -> list[dict[str, Any]]:
        """Take the stints that no entry of the journal has yet."""
        taken, self.stints = self.stints, []
        return taken

    def _take(self, done: Done) -> None:
        with self.lock:
            self.bytes_done += done.task.written or done.task.read
            self.stints.append(asdict(done.stint))
            self._tell()

    def _finish(self, written: Written) -> None:
        """Put a shard into place, and then note it: if the job is killed between the two, it is written again."""
        self.target.finish(written.shard.name)
        with self.lock:
            self.journal.note_shard(written.shard.name, written.facts, self.take_stints())
            self.finished[written.shard.name] = written.facts
            self.tensors_done += len(written.facts)
            self._tell()

    def _kept(self, works: Sequence[Work]) -> Mapping[int, Float64Array]:
        return self.journal.kept({work.index: work.layout.v_shape for work in works})

    def _tell(self) -> None:
        asked = self.schedule.asked_bytes if self.schedule else 0
        tensors, shards = len(self.plan.works), len(self.plan.checkpoint.shards)
        total = self.total_bytes + asked
        self.watch(Progress(self.bytes_done, total, self.tensors_done, tensors, len(self.finished), shards))


def _events(schedule: Schedule, runner: Runner, take: Callable[[Done], None]) -> Iterator[Aggregated | Written]:
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
def _runner(options: Options, plan: JobPlan, source: Folder, target: Target) -> Iterator[Runner]:
    """Start what does the tasks, kernels loaded."""
    runner: Runner
    kernels = kernels_of(plan)
    warm(kernels)  # in this process first: it fills the cache that the others read, and finds roots
    if options.engine_for(plan.checkpoint) == "ray":
        prepare_environment(embedded=options.address is None)
        from normtree.jobs.on_ray import RayRunner

        is_free = options.workers is None and plan.workers == plan.asked_workers
        runner = RayRunner(source, target, kernels, None if is_free else plan.workers, options.address)
    else:
        runner = InlineRunner(source, target, plan.workers)
    try:
        yield runner
    finally:
        runner.close()


def _outcome(plan: JobPlan, journal: Journal, state: State, *, resumed: bool, was_completed: bool) -> Outcome:
    finished = journal.finished
    facts = tuple(each for shard in plan.checkpoint.shards for each in finished[shard.name])
    summary = {name: value for name, value in (journal.completed or {}).items() if name not in ("what", "stints")}
    return Outcome(plan, facts, tuple(journal.stints), summary, state.url, resumed, was_completed)


def _in_place(target: Target, name: str, size: int) -> bool:
    try:
        return target.stat(name).size == size
    except StorageFailed:
        return False


def _check_same(checkpoint: Checkpoint, source: Folder) -> None:
    """Refuse a result of an input that changed while it was read.

    Raises:
        JobConflict: it did.
    """
    files = {shard.name: shard.stat for shard in checkpoint.shards} | dict(checkpoint.others)
    changed = [name for name, stat in files.items() if source.stat(name) != stat]
    if changed:
        raise JobConflict(f"{source.url}: {', '.join(changed)} changed while the job ran; its output is no projection")
