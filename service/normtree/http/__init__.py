"""The service over HTTP. Nothing else in the package imports FastAPI or Starlette."""
