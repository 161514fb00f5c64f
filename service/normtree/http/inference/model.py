"""The models that the Open Inference Protocol sees: their names, and what they say of themselves."""

from dataclasses import dataclass

from normtree.errors import ModelNotFound
from normtree.formats.elements import ELEMENTS
from normtree.formats.oip import INPUT, OUTPUT

VERSION = "1"
PLATFORM = "normtree"
_NAME_SHOWN = 80
_DATATYPE = "FP32"  # the protocol has room for one; the others are taken too
_ANY = -1


@dataclass(frozen=True)
class Model:
    """A projection by the name that clients of the protocol have for it.

    Args:
        name: the name.
        exact: whether it finds the nearest point of the ball, or the multi-level projection.
    """

    name: str
    exact: bool

    def metadata(self) -> dict[str, object]:
        """The protocol's description of the model."""
        return {
            "name": self.name,
            "versions": [VERSION],
            "platform": PLATFORM,
            "inputs": [{"name": INPUT, "datatype": _DATATYPE, "shape": [_ANY]}],
            "outputs": [{"name": OUTPUT, "datatype": _DATATYPE, "shape": [_ANY]}],
        }

    def config(self) -> dict[str, object]:
        """Triton's configuration of the model."""
        return {
            "name": self.name,
            "platform": PLATFORM,
            "backend": PLATFORM,
            "max_batch_size": 0,
            "input": [{"name": INPUT, "data_type": f"TYPE_{_DATATYPE}", "dims": [_ANY]}],
            "output": [{"name": OUTPUT, "data_type": f"TYPE_{_DATATYPE}", "dims": [_ANY]}],
            "parameters": {"datatypes": {"string_value": ",".join(str(element.oip) for element in ELEMENTS)}},
        }


MODELS = {model.name: model for model in (Model("multilevel", exact=False), Model("euclidean", exact=True))}


def find_model(name: str, version: str = VERSION) -> Model:
    """Return a model.

    Raises:
        ModelNotFound: there is none of that name and version.
    """
    if name not in MODELS:
        shown = name[:_NAME_SHOWN]
        detail = f"model: wanted {' or '.join(MODELS)}, got {shown}"
        raise ModelNotFound(detail, pointer="model", limit=", ".join(MODELS), got=shown)
    if version != VERSION:
        shown = version[:_NAME_SHOWN]
        detail = f"version: of {name} there is {VERSION}, got {shown}"
        raise ModelNotFound(detail, pointer="version", limit=VERSION, got=shown)
    return MODELS[name]
