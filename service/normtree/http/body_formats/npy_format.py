"""Bodies of one tensor as ``.npy``."""

from normtree.errors import UnsupportedMediaType
from normtree.formats import npy
from normtree.formats.contents import Contents, Prefix
from normtree.formats.elements import BY_NAME
from normtree.http.body_formats.tensor_format import TensorFormat
from normtree.http.head.query import ProjectQuery
from normtree.http.request.format import Arrival, Asked, FinishedRequest, Payload


class NpyFormat(TensorFormat):
    """The format of NumPy's own files."""

    name = "npy"
    media_types = ("application/x-npy", "application/vnd.numpy.npy")
    shared_types = ("application/octet-stream",)

    def read_header(self, prefix: Prefix, asked: Asked, query: ProjectQuery) -> Contents | None:
        """Read the header; see `normtree.formats.npy.read_header`."""
        if asked.media_type in self.shared_types and not npy.begins(prefix):
            raise UnsupportedMediaType(
                f"Content-Type: {asked.media_type} is read where the body is .npy, which this one is not",
                pointer="Content-Type",
                limit=asked.readable,
                got=asked.media_type,
            )
        limits = asked.settings
        return npy.read_header(prefix, rank_limit=limits.rank_limit, elements_limit=limits.elements_limit)

    def why_not(self, arrival: Arrival) -> str:
        """Say why, unless it is one whole tensor, of a type that NumPy has."""
        entries = arrival.contents.entries
        if arrival.compact:
            return "a compact form is written as"
        if len(entries) != 1:
            return f"{len(entries)} tensors are written as"
        dtype = entries[0].dtype
        if dtype not in BY_NAME or BY_NAME[dtype].npy is None:
            return f"{dtype} is written as"
        return ""

    def write(self, projected: FinishedRequest) -> Payload:
        """Write a header, and the projection as it is."""
        (entry,) = projected.arrival.contents.entries
        return Payload(npy.encode_header(entry), (projected.room.targets[entry.name].view,))
