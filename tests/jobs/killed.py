"""Run jobs in forks of a process that has loaded all it needs, and kill them: ``killed.py RECIPE MOMENTS``.

A moment is a number of files opened, renamed, linked or removed since the job began, in whatever thread: so the same
moments come on a slow machine and on a fast one. At each the output is removed, a job is begun, kills its whole process
group by SIGKILL, and what it leaves is checked for half files; it is resumed, killed again a little later, and resumed
to its end. Then a file of its output is cut and another removed, and the job that makes them again is killed once more.
Prints one JSON line a moment.
"""

import itertools
import json
import os
import shutil
import signal
import sys
from pathlib import Path

from normtree.engine.kernels import prepare
from normtree.jobs.recipe import read_recipe
from normtree.jobs.run import JobOptions, plan_job, run_job
from normtree.jobs.tasks.job_kernels import kernels_of

OPTIONS = JobOptions(workers=2, engine="inline", memory_bytes=64 << 20)
EVENTS = ("open", "os.rename", "os.link", "os.remove")
AGAIN = 0.3  # of all moments: when a job that was resumed is killed again
MENDED = 0.2  # and one that makes again what of its output is gone


def files_of(folder: Path) -> dict[str, bytes]:
    found = sorted(folder.rglob("*")) if folder.exists() else []
    return {str(path.relative_to(folder)): path.read_bytes() for path in found if path.is_file()}


def visible(folder: Path) -> dict[str, bytes]:
    return {name: data for name, data in files_of(folder).items() if not Path(name).name.startswith(".")}


def run_until(recipe: Path, moment: int | None, told: Path) -> int | None:
    """Run the job in a fork that kills its group at a moment, or let it end. Returns its exit status, if it ended."""
    child = os.fork()
    if child == 0:
        os.setsid()
        count = itertools.count()

        def hook(event: str, _: object) -> None:
            if event in EVENTS and next(count) == moment:
                os.killpg(0, signal.SIGKILL)

        sys.addaudithook(hook)
        try:
            run_job(read_recipe(recipe), OPTIONS)
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
            os._exit(1)
        moments = next(count)
        told.write_text(str(moments))
        os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WEXITSTATUS(status) if os.WIFEXITED(status) else None


def main(recipe: Path, moments: int) -> None:
    target = Path(read_recipe(recipe).output)
    state = target.with_name(target.name + ".normtree")
    told = recipe.with_name("moments.txt")
    prepare(kernels_of(plan_job(read_recipe(recipe), OPTIONS)))

    def clean() -> None:
        for folder in (target, state):
            shutil.rmtree(folder, ignore_errors=True)

    assert run_until(recipe, None, told) == 0
    wanted, last_moment = files_of(target), int(told.read_text())
    for index in range(moments):
        clean()
        first = run_until(recipe, last_moment * index // moments, told)
        half = [name for name, data in visible(target).items() if wanted[name] != data]
        second = run_until(recipe, int(last_moment * AGAIN), told)
        half += [name for name, data in visible(target).items() if wanted[name] != data]
        shards = len(visible(target))
        last = run_until(recipe, None, told)
        same = files_of(target) == wanted
        cut, gone = sorted(name for name in wanted if name.endswith(".safetensors"))[:2]
        os.truncate(target / cut, 100)
        (target / gone).unlink()
        run_until(recipe, int(last_moment * MENDED), told)
        half += [name for name, data in visible(target).items() if wanted[name] != data and name != cut]
        last = last or run_until(recipe, None, told)
        same = same and files_of(target) == wanted
        line = {"first": first, "second": second, "last": last, "half": half, "same": same, "shards_kept": shards}
        print(json.dumps(line), flush=True)
    clean()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
