"""HTTP in front of the engine: OpenAI's routes, a page that uses only them, and a guard before both."""

from textus.core.names import import_optional

for _module in ("fastapi", "uvicorn"):  # said here once, instead of an ImportError from somewhere inside
    import_optional(_module, "serve")

from textus.serving.app import create_app, serve  # noqa: E402
from textus.serving.scheduler import ServedModel  # noqa: E402

__all__ = ["ServedModel", "create_app", "serve"]
