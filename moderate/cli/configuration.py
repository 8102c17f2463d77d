"""Which configuration file a command takes its defaults from, and what messages say about it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperOption

from moderate.cli.help import PlainCommand
from moderate.cli.messages import parser_message, say, speak_json
from moderate.errors import ConfigError, ModerateError, ReaderGoneError, UsageError

if TYPE_CHECKING:
    from moderate.config import Config

# Parameters of scan that no file sets; debug is looked for before there is a configuration.
_NOT_IN_A_FILE = frozenset({"ctx", "inputs", "config", "no_config", "debug", "help"})
_NOT_IN_THE_ENVIRONMENT = frozenset({"ctx", "inputs", "help"})
_OFF = frozenset({"", "0", "f", "false", "n", "no", "off"})


def environment_flag(option: str) -> bool:
    """Whether the environment sets an option that takes no value, as `no-config`."""
    value = os.environ.get(f"MODERATE_{option.upper().replace('-', '_')}", "")
    return value.strip().lower() not in _OFF


class ConfiguredCommand(PlainCommand):
    """A command whose options get their defaults from a configuration file.

    Which file may be used depends on the inputs, so the command line is read once for those before
    any of its values is processed. The `Config` is the context's `obj`.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """See `PlainCommand`. Raises ConfigError and UsageError."""
        if ctx.resilient_parsing:  # a shell asks what could come next
            return super().parse_args(ctx, args)
        values, _, _ = self.make_parser(ctx).parse_args(args=list(args))
        if not values.get("help"):
            ctx.obj = self._configure(ctx, values)
        try:
            return super().parse_args(ctx, args)
        except typer.BadParameter as error:
            source = _source(ctx, error.param) if error.param else None
            raise _attributed(error, source) from error

    def invoke(self, ctx: Any) -> Any:
        """See `PlainCommand`. An error about a value names the file or variable that it is from."""
        try:
            return super().invoke(ctx)
        except ReaderGoneError:
            raise
        except (typer.BadParameter, ModerateError) as error:
            source = _source_of_named_value(ctx, _message(error))
            if source is None:
                raise
            raise _attributed(error, source) from error

    def _configure(self, ctx: Any, values: Mapping[str, Any]) -> Config:
        options = {p.name: p for p in self.params if isinstance(p, TyperOption) and p.name}
        lists = values.get("files_from") or options["files_from"].value_from_envvar(ctx) or ()
        config = _config(frozenset(options), values, values.get("inputs") or (), lists)
        for name, value in config.settings.items():
            if isinstance(value, bool) and not options[name].is_flag and config.record:
                raise ConfigError(
                    f"config {config.record.path}: {name}: expected a value, got "
                    f"{str(value).lower()}"
                )
            if isinstance(value, list) and not options[name].multiple and config.record:
                raise ConfigError(
                    f"config {config.record.path}: {name}: expected a single value, got a list"
                )
        settings = {
            name: [value] if options[name].multiple and not isinstance(value, list) else value
            for name, value in config.settings.items()
        }
        ctx.default_map = {**(ctx.default_map or {}), **settings}
        if settings.get("log_json"):
            speak_json()
        _say_ignored(config, "use --config FILE to name a file, or --no-config to look for none")
        return config


def say_used(config: Config, ctx: typer.Context, *, quiet: bool) -> None:
    """Name the configuration file of a run. One that was merely found cannot ask for silence."""
    source = ctx.get_parameter_source("quiet")
    asked_itself = config.found and source is not None and source.name == "DEFAULT_MAP"
    if not quiet or asked_itself:
        _say_used(config)


def weaker_of(ctx: typer.Context, first: str, second: str) -> str | None:
    """Which of two parameters that exclude each other is from a lower level; None where neither is.

    The command line wins over the environment, and that over a configuration file.
    """
    levels = ("DEFAULT", "DEFAULT_MAP", "ENVIRONMENT")

    def rank(name: str) -> int:
        source = ctx.get_parameter_source(name)
        return levels.index(source.name) if source and source.name in levels else len(levels)

    if rank(first) == rank(second):
        return None
    return first if rank(first) < rank(second) else second


def configured_state() -> str | None:
    """The state folder that a configuration file names; None where none does.

    For commands other than scan: `MODERATE_CONFIG` and `MODERATE_NO_CONFIG` say which file. Raises
    ConfigError and UsageError.
    """
    import inspect

    from moderate.cli.scan import scan

    config = _config(frozenset(inspect.signature(scan).parameters), {})
    _say_ignored(
        config, "name a file in MODERATE_CONFIG, or set MODERATE_NO_CONFIG to look for none"
    )
    folder = config.settings.get("state")
    if folder is None:
        return None
    if not isinstance(folder, str) or not folder:
        raise ConfigError(f"config: state: expected the name of a folder, got {folder!r}")
    if config.found:
        _say_used(config)
    return folder


def _config(
    options: frozenset[str],
    values: Mapping[str, Any],
    inputs: Sequence[str] = (),
    lists: Sequence[str] = (),
) -> Config:
    """As the command line has it, else the environment, else the nearest file that may be used."""
    from moderate.config import Config, check_variables, find_config, named_config

    check_variables(os.environ, options - _NOT_IN_THE_ENVIRONMENT)
    levels = (
        (None, "--config and --no-config", values.get("config"), bool(values.get("no_config"))),
        (
            "MODERATE_CONFIG",
            "MODERATE_CONFIG and MODERATE_NO_CONFIG",
            os.environ.get("MODERATE_CONFIG") or None,
            environment_flag("no-config"),
        ),
    )
    known = options - _NOT_IN_A_FILE
    for variable, names, named, none in levels:
        if named is not None and none:
            raise UsageError(f"{names} contradict each other; give one of them")
        if named is not None:
            try:
                return named_config(named, known)
            except ConfigError as error:
                raise _attributed(error, variable) from error
        if none:
            return Config()
    return find_config(known, inputs, lists)


def _say_ignored(config: Config, ways_out: str) -> None:
    if config.ignored:
        files = "; ".join(config.ignored)
        message = f"not used as configuration: {files}; {ways_out}"
        say("warning", "config_ignored", message, ignored=config.ignored)


def _say_used(config: Config) -> None:
    if record := config.record:
        message = f"options from {record.path}"
        say("info", "config", message, path=record.path, sha256=record.sha256)


def _source(ctx: typer.Context, param: Any) -> str | None:
    """The file or variable that an option's value is from; None where it is from neither."""
    source = ctx.get_parameter_source(param.name)
    if source is not None and source.name == "ENVIRONMENT":
        return f"MODERATE_{param.name.upper()}"
    if source is not None and source.name == "DEFAULT_MAP" and ctx.obj.record:
        return f"config {ctx.obj.record.path}"
    return None


def _source_of_named_value(ctx: typer.Context, message: str) -> str | None:
    """The source of the option that a message names, or else of the value that it names."""
    sources = [
        (param, source)
        for param in ctx.command.params
        if isinstance(param, TyperOption) and (source := _source(ctx, param))
    ]
    for param, source in sources:
        if any(_names(message, name) for name in param.opts):
            return source
    for param, source in sources:
        if param.type_descriptor.is_choice:
            continue  # a wrong one was refused before; others are everyday words
        value = ctx.params.get(param.name)
        values = value if isinstance(value, list) else [value]
        if any(isinstance(one, str) and one and _names(message, one) for one in values):
            return source
    return None


def _names(message: str, word: str) -> bool:
    return bool(re.search(rf"(?<![\w-]){re.escape(word)}(?![\w-])", message))


def _message(error: typer.BadParameter | ModerateError) -> str:
    return parser_message(error) if isinstance(error, typer.BadParameter) else str(error)


def _attributed(error: typer.BadParameter | ModerateError, source: str | None) -> Exception:
    """The error with its source before it."""
    return ConfigError(f"{source}: {_message(error)}") if source else error
