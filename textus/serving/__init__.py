"""The HTTP server: OpenAI-compatible routes over the engine, and a web page that uses them."""

from textus.core.names import import_optional

for _module in ("fastapi", "uvicorn"):  # one error here instead of an ImportError later
    import_optional(_module, "serve")

from textus.serving.app import create_app, serve  # noqa: E402
from textus.serving.scheduler import ServedModel  # noqa: E402

__all__ = ["ServedModel", "create_app", "serve"]
