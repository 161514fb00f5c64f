"""What can go wrong with a request, one class a cause, the same for engine, command line and HTTP.

    NormtreeError
    ├── MalformedBody          400  header, framing or length of the body
    ├── RegionRefused          400  shared memory that cannot be used
    ├── KeyMissing             401  the service asks for a key
    ├── KeyRefused             403  the key is nobody's
    ├── NotLocal               403  only for clients on this machine
    ├── CrossSite              403  a page of another site sends it
    ├── NotAcceptable          406  no format the client takes is one we write
    ├── BodyTimeout            408  the body did not arrive in time
    ├── LengthRequired         411  the body's length was not declared
    ├── BodyTooLarge           413  the body exceeds a limit
    ├── UnsupportedMediaType   415  the body is in a format we do not read
    ├── HostRefused            421  the service answers to other names
    ├── InvalidParameter       422  norm, axes, radius, an option we do not know
    ├── ModelNotFound          404  no model of that name and version
    ├── JobNotFound            404  no job of that id
    ├── TraceNotFound          404  no trace of that name, or none any more
    ├── JobConflict            409  another run, other input, or other output is in the way
    ├── InvalidRecipe          422  a job's recipe: TOML, keys, tensors it names
    ├── InvalidCheckpoint      422  a file of the job's input is missing or broken
    ├── InvalidTensor          422  dtype, shape, NaN or infinity
    ├── RateExceeded           429  a client asks more often than it may
    ├── BytesExceeded          429  a client has more bytes in flight than it may
    ├── QueueFull              503  too many requests wait already
    ├── Cancelled              499  the one who asked does not want it any more
    ├── ArenaFull              503  no shared memory is free now
    ├── NotReady               503  starting or draining
    ├── Drained                503  the drain's time was up before the work was done
    ├── EngineUnavailable      503  Ray cannot be reached
    ├── WorkersLost            503  leaves failed after their retries
    ├── OutOfMemory            503  a leaf, or Ray's store, found no memory
    ├── StorageFailed          503  a file cannot be read or written
    ├── DeadlineExceeded       504  the work took longer than allowed
    └── StorageFull            507  there is no room for a job's output

An error says what, where, got and wanted. It never carries a tensor's data.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Self, TypeVar

from normtree_kernels.refusals import Refusal

E = TypeVar("E", bound="NormtreeError")


class NormtreeError(Exception):
    """Base of every error that is shown to the one who asked.

    Attributes:
        status: the HTTP status that fits.
        code: a stable slug, for programs.
        title: the same for every error of the class, for people.
    """

    status: ClassVar[int]
    code: ClassVar[str]
    title: ClassVar[str]

    def __init__(
        self,
        detail: str,
        *,
        pointer: str | None = None,
        limit: int | float | str | None = None,
        got: object = None,
        retry_after_s: int | None = None,
    ) -> None:
        """Make an error.

        Args:
            detail: one sentence: what, where, got, wanted.
            pointer: the name of what is at fault: a parameter, a header, a field of the body.
            limit: the bound that was broken, in the unit ``detail`` names.
            got: the value that broke it; a small scalar or its text, never a tensor's elements.
            retry_after_s: whole seconds after which to ask again; None where asking again is no use.
        """
        super().__init__(detail)
        self.detail = detail
        self.pointer = pointer
        self.limit = limit
        self.got = got
        self.retry_after_s = retry_after_s

    def about(self, where: str) -> Self:
        """Return the same error, saying which of several it is about."""
        detail, retry_after_s = f"{where}: {self.detail}", self.retry_after_s
        return type(self)(detail, pointer=self.pointer, limit=self.limit, got=self.got, retry_after_s=retry_after_s)


class MalformedBody(NormtreeError):
    """The body breaks the rules of its own format."""

    status = 400
    code = "malformed-body"
    title = "The body is malformed"


class RegionRefused(NormtreeError):
    """A region of shared memory is not there, not permitted or too short."""

    status = 400
    code = "region-refused"
    title = "The shared memory cannot be used"


class KeyMissing(NormtreeError):
    """The service asks for a key, and none was shown."""

    status = 401
    code = "key-missing"
    title = "A key is required"


class KeyRefused(NormtreeError):
    """The key that was shown is nobody's."""

    status = 403
    code = "key-refused"
    title = "The key is not accepted"


class NotLocal(NormtreeError):
    """What was asked for is only for clients on this machine."""

    status = 403
    code = "not-local"
    title = "Only for clients on this machine"


class CrossSite(NormtreeError):
    """A page of another site sends it from somebody's browser."""

    status = 403
    code = "cross-site"
    title = "Not for pages of other sites"


class HostRefused(NormtreeError):
    """The request is for a host by whose name this service does not go."""

    status = 421
    code = "host-refused"
    title = "Not a name of this service"


class NotAcceptable(NormtreeError):
    """None of the formats that the client accepts is one we write."""

    status = 406
    code = "not-acceptable"
    title = "No acceptable format"


class BodyTimeout(NormtreeError):
    """The body did not arrive in the time allowed."""

    status = 408
    code = "body-timeout"
    title = "The body did not arrive in time"


class LengthRequired(NormtreeError):
    """The body's length was not declared in advance."""

    status = 411
    code = "length-required"
    title = "Content-Length is required"


class BodyTooLarge(NormtreeError):
    """The body, or what it would become in memory, exceeds a limit."""

    status = 413
    code = "body-too-large"
    title = "The body is too large"


class UnsupportedMediaType(NormtreeError):
    """The body's media type or coding is none we read."""

    status = 415
    code = "unsupported-media-type"
    title = "Unsupported media type"


class InvalidParameter(NormtreeError):
    """A parameter is unknown, or its value is not permitted."""

    status = 422
    code = "invalid-parameter"
    title = "Invalid parameter"


class InvalidTensor(NormtreeError):
    """The tensor is well-formed but not one that can be projected."""

    status = 422
    code = "invalid-tensor"
    title = "Invalid tensor"


class RateExceeded(NormtreeError):
    """A client asks more often than it may."""

    status = 429
    code = "rate-exceeded"
    title = "Too many requests"


class BytesExceeded(NormtreeError):
    """A client has more bytes in flight than it may."""

    status = 429
    code = "bytes-exceeded"
    title = "Too many bytes in flight"


class QueueFull(NormtreeError):
    """Too many requests wait for shared memory already."""

    status = 503
    code = "queue-full"
    title = "The queue is full"


class Cancelled(NormtreeError):
    """The one who asked hung up or cancelled; the status is the one that proxies log for it."""

    status = 499
    code = "cancelled"
    title = "The request was cancelled"


class ArenaFull(NormtreeError):
    """Requests in flight hold the shared memory this one needs."""

    status = 503
    code = "arena-full"
    title = "No memory is free now"


class NotReady(NormtreeError):
    """The service is starting or draining."""

    status = 503
    code = "not-ready"
    title = "Not ready"


class Drained(NormtreeError):
    """The service stops, and the work was not done when its time to drain was up."""

    status = 503
    code = "drained"
    title = "The service stopped"


class EngineUnavailable(NormtreeError):
    """Ray cannot be reached, or refuses us."""

    status = 503
    code = "engine-unavailable"
    title = "The engine is unavailable"


class WorkersLost(NormtreeError):
    """Workers died, and the retries were used up."""

    status = 503
    code = "workers-lost"
    title = "Workers were lost"


class OutOfMemory(NormtreeError):
    """A leaf, or Ray's store, found no memory for its work."""

    status = 503
    code = "out-of-memory"
    title = "Out of memory"


class DeadlineExceeded(NormtreeError):
    """The work took longer than allowed."""

    status = 504
    code = "deadline-exceeded"
    title = "The deadline has passed"


class ModelNotFound(NormtreeError):
    """There is no model of that name and version."""

    status = 404
    code = "model-not-found"
    title = "No such model"


class JobNotFound(NormtreeError):
    """There is no job of that id."""

    status = 404
    code = "job-not-found"
    title = "No such job"


class TraceNotFound(NormtreeError):
    """There is no trace of that name for the one who asks."""

    status = 404
    code = "trace-not-found"
    title = "No such trace"


class JobConflict(NormtreeError):
    """A job may not run, or its result not be read, as things stand."""

    status = 409
    code = "job-conflict"
    title = "The job conflicts with what is there"


class InvalidRecipe(NormtreeError):
    """A job's recipe is no recipe, or does not fit its input."""

    status = 422
    code = "invalid-recipe"
    title = "Invalid recipe"


class InvalidCheckpoint(NormtreeError):
    """A job's input is no checkpoint that can be read."""

    status = 422
    code = "invalid-checkpoint"
    title = "Invalid checkpoint"


class StorageFailed(NormtreeError):
    """A file could not be read or written."""

    status = 503
    code = "storage-failed"
    title = "Storage failed"


class StorageFull(NormtreeError):
    """There is no room for what a job writes."""

    status = 507
    code = "storage-full"
    title = "No room is left"


def refusal(error: Refusal, kind: type[E], pointer: str | None = None) -> E:
    """Return what kernels or planner refuse as an error of ours.

    Args:
        error: theirs.
        kind: of the error.
        pointer: what is at fault; default: the name of the argument.
    """
    return kind(str(error), pointer=pointer or error.name, limit=error.wanted, got=error.got)


def bound_and_value(problem: Mapping[str, Any]) -> tuple[int | float | str | None, object]:
    """Return the limit and the got of what pydantic, or a validator, found wrong; None for one that is no scalar.

    Args:
        problem: one of a ValidationError's errors, its input and its context included.
    """
    context = problem.get("ctx", {})
    if isinstance(error := context.get("error"), Refusal):
        return error.wanted, error.got
    limit = next((bound for bound in context.values() if isinstance(bound, int | float | str)), None)
    got = problem.get("input")
    return limit, got if isinstance(got, int | float | str) else None
