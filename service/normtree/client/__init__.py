"""The service's client: arrays in, their projections out, over HTTP.

>>> with normtree.Client("http://127.0.0.1:8000") as client:
...     x = client.project(y, "l1,linf", 10.0).x
"""

from normtree.extras import missing

if error := missing("normtree.client", "client"):
    raise error

from normtree.client.aio import AsyncClient
from normtree.client.answers import Projected, ProjectedTensors
from normtree.client.failures import AnswerMismatch, UnexpectedAnswer, Unreachable
from normtree.client.sync import Client

__all__ = [
    "AnswerMismatch",
    "AsyncClient",
    "Client",
    "Projected",
    "ProjectedTensors",
    "UnexpectedAnswer",
    "Unreachable",
]
