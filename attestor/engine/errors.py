"""What can go wrong when an engine is asked; nothing else leaves this package."""

from __future__ import annotations

from hopseal.errors import DeniedError, InvalidError, UnavailableError


class EngineUnavailable(UnavailableError):  # noqa: N818 - the names of states read better without a suffix
    """The engine cannot be reached or did not answer in time (code ``engine_unavailable``)."""

    def __init__(self, detail: str) -> None:
        super().__init__(
            "engine_unavailable",
            "the container engine does not answer",
            detail=detail,
            remedy="check that the engine runs and that engines in attestor.yaml names its socket",
        )


class EngineInvalid(InvalidError):  # noqa: N818
    """The engine's answer is malformed, too large or about something else (code ``engine_answer_invalid``)."""

    def __init__(self, detail: str) -> None:
        super().__init__("engine_answer_invalid", "the container engine's answer cannot be trusted", detail=detail)


class ContainerUnknown(DeniedError):  # noqa: N818
    """The engine has no such container or image (code ``container_unknown``)."""

    def __init__(self, detail: str) -> None:
        super().__init__("container_unknown", "no configured engine runs this container", detail=detail)
