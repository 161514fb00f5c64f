"""A format of bodies that are float32 elements and nothing else; their shape is in the query."""

from math import prod
from typing import Annotated

from pydantic import Field

from normtree.formats.contents import Contents, Entry, Prefix
from normtree.formats.shapes import check_shape
from normtree.http.body_formats.tensor_format import TensorFormat
from normtree.http.head.query import ProjectQuery
from normtree.http.request.format import Arrival, Asked, FinishedRequest, Payload


class RawQuery(ProjectQuery):
    shape: Annotated[
        str, Field(description="lengths of the axes, with commas between", pattern=r"^\d{1,19}(,\d{1,19})*$")
    ]


class RawFloats(TensorFormat):
    name = "raw"
    media_types = ("application/x-float32",)
    query = RawQuery

    def read_header(self, prefix: Prefix, asked: Asked, query: ProjectQuery) -> Contents | None:
        assert isinstance(query, RawQuery)
        shape = tuple(map(int, query.shape.split(",")))
        limits = asked.settings
        check_shape(shape, "shape", rank_limit=limits.rank_limit, elements_limit=limits.elements_limit)
        return Contents((Entry("y", "float32", shape, 4 * prod(shape)),), 0)

    def why_not(self, arrival: Arrival) -> str:
        entries = arrival.contents.entries
        right = not arrival.compact and len(entries) == 1 and entries[0].dtype == "float32"
        return "" if right else "what is not one whole float32 tensor is written as"

    def write(self, projected: FinishedRequest) -> Payload:
        (entry,) = projected.arrival.contents.entries
        return Payload(b"", (projected.room.targets[entry.name].view,))
