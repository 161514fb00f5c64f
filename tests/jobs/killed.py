"""Run jobs in forks of a process that has loaded all it needs, and kill them: ``killed.py RECIPE MOMENTS``.

For each moment the output is removed, a job is begun, killed by SIGKILL with its whole process group, checked for
half files, and then resumed, killed again a little later, and resumed to its end. Prints one JSON line a moment.
"""

import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path

from normtree.jobs.recipe import read_recipe
from normtree.jobs.run import Options, plan_job, run_job
from normtree.jobs.warm import kernels_of, warm

OPTIONS = Options(workers=2, engine="inline", memory_bytes=64 << 20)


def files_of(folder: Path) -> dict[str, bytes]:
    found = sorted(folder.rglob("*")) if folder.exists() else []
    return {str(path.relative_to(folder)): path.read_bytes() for path in found if path.is_file()}


def visible(folder: Path) -> dict[str, bytes]:
    return {name: data for name, data in files_of(folder).items() if not Path(name).name.startswith(".")}


def run_for(recipe: Path, seconds: float | None) -> int | None:
    """Run the job in a fork; kill its group after some seconds, or let it end. Returns its exit status, if it ended."""
    child = os.fork()
    if child == 0:
        os.setsid()
        try:
            run_job(read_recipe(recipe), OPTIONS)
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
            os._exit(1)
        os._exit(0)
    if seconds is not None:
        time.sleep(seconds)
        try:
            os.killpg(child, signal.SIGKILL)
        except ProcessLookupError:  # it has not become a group of its own yet
            os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return os.WEXITSTATUS(status) if os.WIFEXITED(status) else None


def main(recipe: Path, moments: int) -> None:
    target = Path(read_recipe(recipe).output)
    state = target.with_name(target.name + ".normtree")
    plan = plan_job(read_recipe(recipe), OPTIONS)
    warm(kernels_of(plan))

    def clean() -> None:
        for folder in (target, state):
            shutil.rmtree(folder, ignore_errors=True)

    started = time.monotonic()
    assert run_for(recipe, None) == 0
    took_s = time.monotonic() - started
    wanted = files_of(target)
    for moment in range(moments):
        clean()
        first = run_for(recipe, took_s * moment / moments)
        half = [name for name, data in visible(target).items() if wanted[name] != data]
        second = run_for(recipe, took_s * 0.3)
        half += [name for name, data in visible(target).items() if wanted[name] != data]
        shards = len(visible(target))
        last = run_for(recipe, None)
        same = files_of(target) == wanted
        line = {"first": first, "second": second, "last": last, "half": half, "same": same, "shards_kept": shards}
        print(json.dumps(line), flush=True)
    clean()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
