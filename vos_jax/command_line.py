"""What the commands share: reading flags, --config FILE[:PRESET], and ending with a clear error."""

import re
import sys
from collections.abc import Callable, Sequence

from absl import flags, logging
from ml_collections import config_flags

_FLAG_NAME = re.compile(r"^--[a-z-]+(?==|$)")

CONFIG_HELP = "FILE[:PRESET]; --config.SECTION.FIELD=VALUE overrides a field"


def new_flags(argv: Sequence[str] | None = None) -> flags.FlagValues:
    """An empty set of flags with --help and, where `argv` is given, --config."""
    logging.set_verbosity(logging.ERROR)  # notices of the libraries below are not for the user
    values = flags.FlagValues()
    flags.DEFINE_bool("help", False, "show this help", short_name="h", flag_values=values)
    if argv is not None:
        config_flags.DEFINE_config_file(
            "config", None, CONFIG_HELP, flag_values=values, sys_argv=list(argv)
        )
    return values


def parse_flags(
    values: flags.FlagValues, argv: Sequence[str], required: Sequence[str] = ()
) -> None:
    """Read the command line into `values`; --allow-missing and --allow_missing are the same flag.

    Raises flags.Error in one readable line: unknown flag, unknown config file, preset or field
    (with the nearest name), a value of the wrong type, a stray argument, a missing required flag.
    """
    try:
        rest = values([_FLAG_NAME.sub(_with_underscores, word) for word in argv])[1:]
        config = values["config"].value if "config" in values else None
        if config is not None:
            config.keys()  # a file that could not be loaded complains only when it is used
    except (AttributeError, KeyError) as error:
        raise flags.Error(_unknown_field(str(error))) from None
    except OSError as error:
        raise flags.Error(f"--config: {str(error).strip().splitlines()[-1].strip()}") from None
    except flags.Error as error:
        # ml_collections quotes the whole traceback of a config file that raised
        raise flags.Error(str(error).strip().splitlines()[-1]) from None
    if values.help:
        return
    if rest:
        raise flags.Error(f"unexpected arguments {rest}: every value belongs to a --flag")
    missing = [f"--{name}" for name in required if not values[name].value]
    if missing:
        raise flags.Error(f"missing {', '.join(missing)} (--help lists all flags)")


def run_command(
    argv: Sequence[str],
    description: str,
    parse: Callable[[Sequence[str]], flags.FlagValues],
    run: Callable[[flags.FlagValues], str],
    errors: tuple[type[Exception], ...] = (ValueError, OSError, ImportError),
) -> None:
    """A command from argv to its last line, which `run` returns.

    description: printed with the flags by --help. Wrong flags and `errors` end the process with
    one message that says what to do, any other exception with its traceback.
    """
    try:
        args = parse(argv)
        if args.help:
            print(f"{description}\n{args.get_help()}")
            return
        closing = run(args)
    except (flags.Error, *errors) as error:
        sys.exit(f"error: {error}")
    print(closing)


def _with_underscores(name: re.Match) -> str:
    return "--" + name.group()[2:].replace("-", "_")


def _unknown_field(message: str) -> str:
    found = re.search(r"\w+", message)  # the library quotes the name, once or several times over
    near = re.search(r'Did you mean "([^"]+)"', message)
    return f"config has no field {found.group() if found else message!r}" + (
        f"; did you mean {near.group(1)!r}?" if near else ""
    )
