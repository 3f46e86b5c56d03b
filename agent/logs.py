"""The agent's own log: JSON for machines, readable on a terminal, never with a secret in it."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import MutableMapping
from typing import Any, TextIO

import structlog

from agent.config import LogConfig
from agent.secrets import Redactor


def use_json(config: LogConfig, stream: TextIO) -> bool:
    """Whether to write JSON: when configured, under systemd, or when nobody looks on."""
    if config.format != "auto":
        return config.format == "json"
    return "JOURNAL_STREAM" in os.environ or not stream.isatty()


def configure(config: LogConfig, redactor: Redactor, stream: TextIO | None = None) -> None:
    """Set structlog, and the standard library's logging that libraries use, up."""
    stream = stream or sys.stderr
    level = getattr(logging, config.level.upper())
    as_json = use_json(config, stream)
    renderer: Any = (
        structlog.processors.JSONRenderer()
        if as_json
        else structlog.dev.ConsoleRenderer(
            colors=stream.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
    )

    def redact_values(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        return {key: redactor.redact_all(value) for key, value in event.items()}

    def render(logger: Any, name: str, event: MutableMapping[str, Any]) -> str:
        # Once more after rendering: whatever a value's repr() made of it.
        return redactor.redact(str(renderer(logger, name, event)))

    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if as_json:
        # Without local variables: they are cut before the redactor could know a key in them.
        transformer = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
        shared.append(structlog.processors.ExceptionRenderer(transformer))
    structlog.configure(
        processors=[*shared, redact_values, render],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(stream),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                redact_values,
                render,
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    # Libraries say at "info" what is news to their authors alone.
    root.setLevel(max(level, logging.WARNING))
