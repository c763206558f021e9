"""The error tree of the product; each leaf carries the exit code that a run ends with.

    MassgenError
    ├── ConfigError          2    a flag, key, path or variable is wrong; nothing was started
    ├── ModelError           3    a provider failed us (see its subclasses)
    │   ├── RateLimited             try later (retryable)
    │   ├── ModelUnavailable        endpoint down, disconnected, timed out (retryable)
    │   │   └── ModelUnreachable         nobody takes a connection there (retryable, for seconds)
    │   ├── ModelRefusedKey         wrong or missing key
    │   ├── ContextOverflow         the transcript no longer fits
    │   ├── PicturesRefused         the model takes no pictures, or not these
    │   ├── ModelDeclined           the model, or the provider's filter, will not answer this
    │   └── BadReply                an answer outside the provider's own protocol
    ├── NoAnswer             3    no agent produced an answer
    ├── BudgetReached        4    the next call is not covered by the budget; the best answer is saved
    ├── VerifyFailed         1    the negative verdict
    ├── ConsentNeeded        1    the result holds what runs by itself; nothing was written, the user has to say so
    ├── ApplyConflict        5    the project changed meanwhile; nothing was written
    ├── RunTimeout         124    time is up; the best answer is saved
    ├── SandboxFailed      125    no container could be started or kept
    └── Interrupted        130    Ctrl-C or SIGTERM

A message says what happened, to which thing, and what to do next. Errors of `sandbox` are translated where
they cross into the product (`app.py`), always `from` the original.
"""

from __future__ import annotations

from typing import ClassVar


class MassgenError(Exception):
    """Base of every expected failure. `exit_code` is what the process returns."""

    exit_code: ClassVar[int] = 1
    retryable: ClassVar[bool] = False


class ConfigError(MassgenError):
    """The user's input cannot be used."""

    exit_code = 2


class ModelError(MassgenError):
    """A model call failed; the agent may be retried or excluded, the run goes on."""

    exit_code = 3
    refused: ClassVar[bool] = False
    """Failures of this kind come before anything was generated."""
    lasting: ClassVar[bool] = False
    """Another look of the same agent would end the same way."""

    def __init__(self, message: str, *, retry_after_s: float | None = None, unbilled: bool = False) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        """How long the provider wants to be left alone. None: it did not say."""
        self.unbilled = unbilled or self.refused
        """Nothing was generated, so nothing has to be paid."""


class RateLimited(ModelError):
    """The provider asks us to slow down."""

    retryable = True
    refused = True


class ModelUnavailable(ModelError):
    """The endpoint is down, closed the connection, or did not answer in time."""

    retryable = True


class ModelUnreachable(ModelUnavailable):
    """Nobody takes a connection at the endpoint's address, or its name has none."""

    refused = True
    lasting = True


class ModelRefusedKey(ModelError):
    """The provider does not accept the key; the message names the variable it came from."""

    refused = True
    lasting = True


class ContextOverflow(ModelError):
    """The transcript is longer than the model takes."""

    refused = True


class PicturesRefused(ModelError):
    """The model takes no pictures, or not those of this request."""

    refused = True


class ModelDeclined(ModelError):
    """The model, or the provider's filter before it, will not answer this. It was asked, so it costs."""


class BadReply(ModelError):
    """The reply is not what the provider's protocol promises."""

    retryable = True


class NoAnswer(MassgenError):
    """Every agent failed before answering."""

    exit_code = 3


class BudgetReached(MassgenError):
    """The money or the tokens do not cover another call."""

    exit_code = 4

    def __init__(self, message: str, *, whole: bool = True) -> None:
        super().__init__(message)
        self.whole = whole
        """False: only one agent's own share is used up."""


class VerifyFailed(MassgenError):
    """The final result does not pass the verify command."""

    exit_code = 1


class ConsentNeeded(MassgenError):
    """The result touches files that run by themselves, and the user has not said that they may be written."""

    exit_code = 1


class ApplyConflict(MassgenError):
    """The project is not what the agents saw; nothing was written."""

    exit_code = 5


class RunTimeout(MassgenError):
    """The deadline of the run passed."""

    exit_code = 124


class SandboxFailed(MassgenError):
    """The engine, the image or a guarantee is missing."""

    exit_code = 125


class Interrupted(MassgenError):
    """The user stopped the run."""

    exit_code = 130
