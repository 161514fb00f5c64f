"""What users do, for Locust: small tensors, large ones, both engines, requests that are wrong, and jobs.

Usage: locust -f loadtests/users.py --headless -u 8 -t 20s -H http://127.0.0.1:8000

Every answer is checked: a right status with wrong bytes is a failure, and so is a wrong request that is not refused as
it should be. Only a service on loopback is loaded.
"""

from random import choices
from urllib.parse import urlsplit

from flows import mixed
from locust import HttpUser, constant_throughput, events, task
from locust.env import Environment
from openloop import check_local

FLOWS = mixed()


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
