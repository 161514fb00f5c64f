"""The formats that the service reads and writes: one line each."""

from normtree.http.models import MODELS
from normtree.http.request.formats import Formats
from normtree.http.request.inference_format import InferenceFormat
from normtree.http.request.npy_format import NpyFormat
from normtree.http.request.safetensors_format import SafetensorsFormat

FORMATS = Formats((
    NpyFormat(),
    SafetensorsFormat(),
))  # fmt: skip

# Requests that say in their own bodies how a tensor is projected, by the name of the model.
INFERENCES = {name: InferenceFormat(model) for name, model in MODELS.items()}
