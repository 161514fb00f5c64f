"""The OpenAPI document against a real server: every operation, all checks of schemathesis."""

import io
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from normtree.keys import new_key

if not find_spec("schemathesis"):
    pytest.skip("needs schemathesis, which the extra dev brings", allow_module_level=True)
import schemathesis

SECRET, KEY = new_key("ada")
EXAMPLES = 30
# No schema can say that exactly one of three parameters is wanted, or that axes must fit the tensor in the body: such
# requests are valid by the document, and 422 says what is wrong with them. 406 is for what Accept rules out.
CHECKS = {"checks": {"positive_data_acceptance": {"expected-statuses": ["2xx", 404, 406, 422, 503]}}}

TENSORS = arrays.arrays(
    st.sampled_from([np.float32, np.float64]),
    arrays.array_shapes(min_dims=2, max_dims=3, max_side=4),
    elements=st.floats(-100, 100, width=32),
)


def npy(tensor: Any) -> bytes:
    body = io.BytesIO()
    np.save(body, tensor)
    return body.getvalue()


# What the document can only call bytes. The server refuses others, and is right to.
for name in ("application/x-npy", "application/vnd.numpy.npy", "application/octet-stream"):
    schemathesis.openapi.media_type(name, TENSORS.map(npy))
for name in ("application/vnd.safetensors", "application/x-safetensors"):
    schemathesis.openapi.media_type(
        name, st.dictionaries(st.sampled_from("abc"), TENSORS, min_size=1).map(safetensors.numpy.save)
    )


@pytest.fixture(scope="module")
def api(serve: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    log = tmp_path_factory.mktemp("schema") / "log.txt"
    with serve(log, inline_only=True, workers=2, arena_bytes=2**26, body_limit_bytes=2**24, keys=str(KEY)) as (base, _):
        yield schemathesis.openapi.from_url(f"{base}/openapi.json", config=schemathesis.Config.from_dict(CHECKS))


def test_every_operation_keeps_to_the_document(api: Any) -> None:
    operations = [found.ok() for found in api.get_all_operations()]
    assert len(operations) >= 5
    failures = []
    for operation in operations:

        @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy())
        def keep(case: Any) -> None:
            case.call_and_validate(headers={"Authorization": f"Bearer {SECRET}"})

        try:
            keep()
        except schemathesis.core.failures.FailureGroup as group:
            failures += [f"{operation.label}: {failure}" for failure in group.exceptions]
    assert not failures, "\n\n".join(failures)
