"""A request that is refused, and OpenAI's form of saying so."""

from __future__ import annotations

from typing import Any


class Refused(ValueError):
    """A request that gets an error status, with the reason.

    Args:
        param: the field that is at fault.
        code: short name of the reason, for programs.
        retry_after: seconds after which the same request may be taken.
    """

    def __init__(
        self,
        message: str,
        param: str | None = None,
        *,
        status: int = 400,
        code: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.param, self.status, self.code, self.retry_after = param, status, code, retry_after


def error_body(error: Exception) -> dict[str, Any]:
    """What a client reads about an error. Of an error that is not the request's fault, no more than its type."""
    if not isinstance(error, Refused):
        message = f"the server failed to answer ({type(error).__name__}); its log has the reason"
        return {"error": {"message": message, "type": "server_error", "param": None, "code": "internal_error"}}
    kind = "invalid_request_error" if error.status < 500 else "server_error"
    return {"error": {"message": str(error), "type": kind, "param": error.param, "code": error.code}}
