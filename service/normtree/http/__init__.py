"""The service over HTTP. Nothing else in the package imports FastAPI or Starlette."""

from normtree.extras import missing

if error := missing("normtree.http", "service"):
    raise error
