"""What users do, for Locust: small tensors, large ones, both engines, requests that are wrong, and jobs.

Usage: locust -f loadtests/users.py --headless -u 8 -t 20s -H http://127.0.0.1:8000 --jobs-root FOLDER

FOLDER is one that the service's jobs may use (`jobs_roots`), and holds a checkpoint of `served_jobs.py`. Every answer
is checked: a right status with wrong bytes is a failure, and so is a wrong request that is not refused as it should be.
Jobs are followed over server-sent events to their end. Only a service on loopback is loaded.
"""

from pathlib import Path
from random import choices
from time import perf_counter
from urllib.parse import urlsplit

from locust import HttpUser, constant, constant_throughput, events, task
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment
from traffic.flows import mixed
from traffic.openloop import check_local
from traffic.served_jobs import ServedCheckpoint, last_event

FLOWS = mixed()
JOB_S = 60


@events.init_command_line_parser.add_listener
def add_option(parser: LocustArgumentParser) -> None:
    """Take the folder of the jobs."""
    parser.add_argument("--jobs-root", required=True, help="folder that the service's jobs may use")


@events.test_start.add_listener
def check_host(environment: Environment, **_: object) -> None:
    """Refuse any other machine than this one."""
    check_local(urlsplit(environment.host or "").hostname or "")


class Visitor(HttpUser):
    """Sends one of the flows about five times a second."""

    wait_time = constant_throughput(5)

    @task
    def send(self) -> None:
        """Send one request and check its answer."""
        (flow,) = choices(FLOWS, [flow.weight for flow in FLOWS])
        with self.client.post(
            flow.path, data=flow.body, headers=dict(flow.headers), name=flow.name, catch_response=True
        ) as answer:
            if flow.is_right(answer.status_code, answer.content):
                answer.success()
            else:
                answer.failure(f"{answer.status_code}: {answer.text[:200]}")


class Batcher(HttpUser):
    """Posts a job, follows it to its end, looks at what it wrote, and posts the next one."""

    fixed_count = 1
    wait_time = constant(1)

    def on_start(self) -> None:
        self.checkpoint = ServedCheckpoint(Path(self.environment.parsed_options.jobs_root))
        self.number = 0

    @task
    def job(self) -> None:
        """Run one job; its time is from the post to the last event."""
        start_s, output = perf_counter(), f"locust-{self.number}"
        self.number += 1
        taken = self.client.post("/v1/jobs", json=self.checkpoint.recipe(output), name="job, posted")
        if taken.status_code != 202:
            return  # Locust has counted it as a failure
        follow = f"{taken.headers['Location']}/events"
        with self.client.get(follow, name="job, its events begin", stream=True, timeout=JOB_S) as stream:
            told = last_event(stream.iter_lines(decode_unicode=True))
        complaint = self.checkpoint.complaint(output, *told)
        self.environment.events.request.fire(
            request_type="JOB",
            name="job, to its end",
            response_time=1e3 * (perf_counter() - start_s),
            response_length=0,
            exception=ValueError(complaint) if complaint else None,
            context={},
        )
