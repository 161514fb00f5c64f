"""The formats that the service reads and writes: one line each."""

from normtree.http.body_formats.inference_format import InferenceFormat
from normtree.http.body_formats.negotiation import Formats
from normtree.http.body_formats.npy_format import NpyFormat
from normtree.http.body_formats.safetensors_format import SafetensorsFormat
from normtree.http.inference.model import MODELS

FORMATS = Formats((
    NpyFormat(),
    SafetensorsFormat(),
))  # fmt: skip

# Requests that say in their own bodies how a tensor is projected, by the name of the model.
INFERENCES = {name: InferenceFormat(model) for name, model in MODELS.items()}
