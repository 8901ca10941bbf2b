"""How the commands read their flags: one place for --config FILE[:PRESET] and its errors."""

import re
from collections.abc import Sequence

from absl import flags, logging
from ml_collections import config_flags

CONFIG_HELP = "FILE[:PRESET]; --config.SECTION.FIELD=VALUE overrides a field"


def new_flags(argv: Sequence[str]) -> flags.FlagValues:
    """An empty set of flags with --config and --help."""
    logging.set_verbosity(logging.ERROR)  # notices of the libraries below are not for the user
    values = flags.FlagValues()
    flags.DEFINE_bool("help", False, "show this help", short_name="h", flag_values=values)
    config_flags.DEFINE_config_file(
        "config", None, CONFIG_HELP, flag_values=values, sys_argv=list(argv)
    )
    return values


def parse_flags(
    values: flags.FlagValues, argv: Sequence[str], required: Sequence[str] = ()
) -> None:
    """Read the command line into `values`.

    Raises flags.Error in one readable line: unknown flag, unknown config file, preset or field
    (with the nearest name), a value of the wrong type, a stray argument, a missing required flag.
    """
    try:
        rest = values(list(argv))[1:]
        config = values["config"].value
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


def _unknown_field(message: str) -> str:
    found = re.search(r"\w+", message)  # the library quotes the name, once or several times over
    near = re.search(r'Did you mean "([^"]+)"', message)
    return f"config has no field {found.group() if found else message!r}" + (
        f"; did you mean {near.group(1)!r}?" if near else ""
    )
