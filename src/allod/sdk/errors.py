"""Every error that Allod raises on purpose.

    AllodError                     500 internal_error
    ├── BadRequest                 400 invalid_request          the request itself is wrong; `param` names the field
    │   ├── UnsupportedParameter   400 unsupported_parameter    this model cannot honour this field
    │   └── ContextTooLong         400 context_length_exceeded  the prompt has more tokens than the model's context
    ├── Unauthorized               401 invalid_api_key
    │   └── WrongPassphrase        401 wrong_passphrase         no lock of the store opens with it
    ├── Forbidden                  403 forbidden                a Host or Origin not allowed, or a right that lacks
    │   └── EgressRefused          403 egress_refused           the user has not allowed this request to the world
    ├── NotFound                   404 not_found
    │   ├── ModelNotFound          404 model_not_found
    │   └── ServiceMissing         404 service_missing          no extension offers this now
    ├── MethodNotAllowed           405 method_not_allowed
    ├── BodyTooSlow                408 body_too_slow            the request's body did not arrive in time
    ├── Conflict                   409 conflict                 it is not in a state in which that can be done
    ├── BodyTooLarge               413 body_too_large
    ├── UnsupportedContentType     415 unsupported_content_type
    ├── Locked                     423 locked                   the store is locked: its key is needed first
    ├── QueueFull                  429 queue_full               too many requests wait for this model
    ├── TooManyTries               429 too_many_tries           wrong passphrases: the next try must wait
    ├── ExtensionFailed            500 extension_failed         an extension made a mistake; it is named
    ├── MigrationFailed            500 migration_failed         tables could not be brought up to date
    ├── StoreDamaged               500 store_damaged            what the store holds cannot be read
    ├── EngineFailed               502 engine_failed            the engine answered with an error of its own
    │   └── EngineGone             502 engine_gone              the engine's process ended or hung
    ├── EgressFailed               502 egress_failed            an allowed request to the world did not work
    ├── LoadFailed                 503 load_failed              a model could not be loaded
    ├── StoreBusy                  503 store_busy               something does not let go of the store
    ├── StoreReadOnly              503 store_read_only          the disk does not let anything be written
    ├── StoreFull                  507 store_full               the disk is full
    ├── ModelTooLarge              507 model_too_large          a model does not fit in memory
    └── StartFailed                -   start_failed             the server cannot start (command line only)

A class fixes `status`, `code` and `type` (OpenAI's word for the kind of error); a raise says `detail` (what happened)
and `fix` (what to do). Neither may hold text of a message.
"""

from __future__ import annotations

from typing import ClassVar


class AllodError(Exception):
    """Something went wrong that a person can be told about."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"
    type: ClassVar[str] = "server_error"
    source: ClassVar[str] = "gateway"

    def __init__(
        self, detail: str, *, fix: str = "", param: str | None = None, retry_after_s: float | None = None
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.fix = fix
        self.param = param
        self.retry_after_s = retry_after_s

    @property
    def message(self) -> str:
        """What happened and what to do, in one line."""
        return f"{self.detail} {self.fix}".strip()


class BadRequest(AllodError):
    """The request itself is wrong; `param` names the field."""

    status, code, type = 400, "invalid_request", "invalid_request_error"


class UnsupportedParameter(BadRequest):
    """This model cannot honour this field, and ignoring it would be a lie."""

    code = "unsupported_parameter"


class ContextTooLong(BadRequest):
    """The prompt has more tokens than the model's context."""

    code = "context_length_exceeded"


class Unauthorized(AllodError):
    """No API key where one is required, or one that is not known."""

    status, code, type = 401, "invalid_api_key", "authentication_error"


class WrongPassphrase(Unauthorized):
    """No lock of the store opens with this passphrase or recovery code."""

    code = "wrong_passphrase"


class Forbidden(AllodError):
    """A Host or Origin header that is not allowed here, or a key that has not the right for this."""

    status, code, type = 403, "forbidden", "permission_error"


class EgressRefused(Forbidden):
    """The user has not allowed this request to the world, or everything is offline."""

    code, source = "egress_refused", "egress"


class NotFound(AllodError):
    """Nothing is at this address."""

    status, code, type = 404, "not_found", "invalid_request_error"


class ModelNotFound(NotFound):
    """No model has this name."""

    code = "model_not_found"


class ServiceMissing(NotFound):
    """No extension offers this service now."""

    code = "service_missing"


class MethodNotAllowed(AllodError):
    """This address exists, but not for this method."""

    status, code, type = 405, "method_not_allowed", "invalid_request_error"


class BodyTooSlow(AllodError):
    """The request's body did not arrive in time."""

    status, code, type = 408, "body_too_slow", "invalid_request_error"


class Conflict(AllodError):
    """It is not in a state in which that can be done."""

    status, code, type = 409, "conflict", "invalid_request_error"


class BodyTooLarge(AllodError):
    """The request's body is over the limit."""

    status, code, type = 413, "body_too_large", "invalid_request_error"


class UnsupportedContentType(AllodError):
    """The body is not of a kind that this route reads."""

    status, code, type = 415, "unsupported_content_type", "invalid_request_error"


class Locked(AllodError):
    """The store is locked: its key is needed first."""

    status, code, type, source = 423, "locked", "permission_error", "store"


class TooManyTries(AllodError):
    """Wrong passphrases were given: the next try must wait."""

    status, code, type = 429, "too_many_tries", "rate_limit_error"


class StoreDamaged(AllodError):
    """What the store holds cannot be read: the file is damaged, or of another key."""

    code, source = "store_damaged", "store"


class MigrationFailed(AllodError):
    """An owner's tables could not be brought up to date. They are as they were before."""

    code, source = "migration_failed", "store"


class StoreBusy(AllodError):
    """Something does not let go of the store."""

    status, code, source = 503, "store_busy", "store"


class StoreReadOnly(AllodError):
    """The disk does not let anything be written."""

    status, code, source = 503, "store_read_only", "store"


class StoreFull(AllodError):
    """The disk is full. What was kept before is safe."""

    status, code, source = 507, "store_full", "store"


class ExtensionFailed(AllodError):
    """An extension made a mistake. It is named, and so is the place in the log."""

    code, source = "extension_failed", "extension"


class EgressFailed(AllodError):
    """An allowed request to the world did not work."""

    status, code, source = 502, "egress_failed", "egress"


class QueueFull(AllodError):
    """Too many requests already wait for this model."""

    status, code, type, source = 429, "queue_full", "rate_limit_error", "scheduler"


class EngineFailed(AllodError):
    """The engine answered with an error of its own."""

    status, code, source = 502, "engine_failed", "engine"


class EngineGone(EngineFailed):
    """The engine's process ended or hung while it worked on this request."""

    code = "engine_gone"

    def __init__(self, detail: str, *, fix: str = "Send the request again.", reached: bool = True) -> None:
        super().__init__(detail, fix=fix)
        self.reached = reached  # False: no byte of an answer came, so the request may be tried once more


class LoadFailed(AllodError):
    """A model could not be loaded."""

    status, code, source = 503, "load_failed", "engine"


class ModelTooLarge(AllodError):
    """The weights and the smallest context do not fit in memory, whatever is unloaded."""

    status, code, source = 507, "model_too_large", "scheduler"


class StartFailed(AllodError):
    """The server cannot start as it was asked to."""

    code = "start_failed"
