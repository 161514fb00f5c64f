"""What a route that takes a tensor may answer instead of a projection, for OpenAPI."""

from normtree import errors
from normtree.http.problems import problem_responses

TENSOR_PROBLEMS = problem_responses(
    errors.MalformedBody,
    errors.BodyTimeout,
    errors.LengthRequired,
    errors.BodyTooLarge,
    errors.UnsupportedMediaType,
    errors.InvalidParameter,
    errors.InvalidTensor,
    errors.ArenaFull,
    errors.NotReady,
    errors.EngineUnavailable,
    errors.WorkersLost,
    errors.OutOfMemory,
    errors.DeadlineExceeded,
)
