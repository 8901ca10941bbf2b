"""What the commands share: flags, --config FILE[:PRESET], --quiet, and how they end.

Exit codes of every command: 0 done; 1 not done, for the reason in one message on stderr (with a
traceback it is a fault of ours); 130 interrupted from the keyboard; 143 a training run that was
told to end (SIGTERM), and goes on when the same command is given again.
"""

import argparse
import contextlib
import logging as stdlib_logging
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import NoReturn

from absl import flags, logging
from ml_collections import ConfigDict, config_flags

import vos_jax.configs
from vos_jax.notes import quiet

QUIET = "no progress, no notes: only results and errors"
_FLAG_NAME = re.compile(r"^--[a-z-]+(?==|$)")


def new_flags(argv: Sequence[str] | None = None) -> flags.FlagValues:
    """A set of flags with --help, --quiet and, where `argv` is given, --config."""
    # What the libraries below log is not for the user; their errors are also raised.
    logging.set_verbosity(logging.FATAL)
    stdlib_logging.getLogger("asyncio").setLevel(stdlib_logging.CRITICAL)
    values = flags.FlagValues()
    flags.DEFINE_bool("help", False, "show this help", short_name="h", flag_values=values)
    flags.DEFINE_bool("quiet", False, QUIET, flag_values=values)
    if argv is not None:
        meaning = (
            f"FILE[:PRESET], or NAME[:PRESET] of those that vos_jax carries: "
            f"{', '.join(carried_configs())}; --config.SECTION.FIELD=VALUE overrides a field"
        )
        config_flags.DEFINE_config_file(
            "config", None, meaning, flag_values=values, sys_argv=list(argv)
        )
        values["config"].parser = _CarriedToo(values["config"].parser)
    return values


def flag(
    values: flags.FlagValues,
    name: str,
    default: str | bool | int | None,
    meaning: str,
    *,
    choices: Iterable[str] | None = None,
    at_least: int | None = None,
) -> None:
    """Define --name in `values`: a string, or what its default is, a bool or an int.

    meaning: what --help says. choices: the only strings it takes, which --help lists and the error
    for any other names. at_least: the smallest int it takes.
    """
    if choices is not None:
        names = list(choices)
        flags.DEFINE_enum(name, default, names, meaning, flag_values=values)
        values[name].help = f"{meaning}: {', '.join(names)}"  # absl's own breaks lines inside names
    elif isinstance(default, bool):
        flags.DEFINE_bool(name, default, meaning, flag_values=values)
    elif isinstance(default, int):
        flags.DEFINE_integer(name, default, meaning, lower_bound=at_least, flag_values=values)
    else:
        flags.DEFINE_string(name, default, meaning, flag_values=values)


def path_flag(
    values: flags.FlagValues, name: str, meaning: str, default: str | None = None
) -> None:
    """Define --name in `values`, a path; ~ is the home folder, also in --name=~/x."""
    flags.DEFINE(_PathParser(), name, default, meaning, flag_values=values)


def paths_flag(values: flags.FlagValues, name: str, meaning: str) -> None:
    """Define --name in `values`, paths: one each time that the flag is given."""
    flags.DEFINE_multi(
        _PathParser(), flags.ArgumentSerializer(), name, [], meaning, flag_values=values
    )


def parse_flags(
    values: flags.FlagValues,
    argv: Sequence[str],
    required: Sequence[str] = (),
    positional: str | None = None,
) -> None:
    """Read the command line into `values`; --allow-missing and --allow_missing are the same flag.

    positional: the flag whose value may be given without its name.
    Raises flags.Error in one readable line: unknown flag, unknown config file, preset or field
    (with the nearest name), a value of the wrong type, a stray argument, a missing required flag, a
    config file that fails, with its line.
    """
    values.set_gnu_getopt(positional is not None)  # flags may follow a value without one
    try:
        rest = values([_FLAG_NAME.sub(_with_underscores, word) for word in argv])[1:]
    except (AttributeError, KeyError) as error:
        raise flags.Error(_unknown_field(str(error))) from None
    except flags.Error as error:
        line = str(error).strip().splitlines()[-1]
        if (field := re.search(r"Unknown command line flag '(config\.[^']*)'", line)) and (
            "config" in values
        ):
            line = (
                f"--{field[1]} changes a field of --config FILE[:PRESET], which is missing: name"
                " the one that the checkpoint was trained with"
            )
        raise flags.Error(line) from None
    if values.help:
        return
    if positional and len(rest) == 1 and not values[positional].present:
        values[positional].parse(rest.pop())
    if rest:
        raise flags.Error(f"unexpected arguments {rest}: every value belongs to a --flag")
    missing = [f"--{name}" for name in required if not values[name].value]
    if missing:
        raise flags.Error(f"missing {', '.join(missing)} (--help lists all flags)")


def config_folder() -> Path:
    """The configs that vos_jax carries: configs/ of a clone, vos_jax/configs of a wheel."""
    return Path(next(iter(vos_jax.configs.__path__)))


def carried_configs() -> list[str]:
    """The names of the configs in `config_folder()`, sorted."""
    return sorted(file.stem for file in config_folder().glob("[!_]*.py"))


def find_config(typed: str) -> str:
    """FILE[:PRESET] for what was typed after --config.

    A file that exists is that file. Else `feelvos`, `feelvos.py` and `configs/feelvos.py` are the
    config that vos_jax carries, `sweeps/stm` one of its sweeps; any other path is somebody's own
    file, which is not there.
    Raises ValueError with the known names.
    """
    path, colon, preset = typed.partition(":")
    if Path(path).is_file():
        return typed
    name, known = Path(path).name.removesuffix(".py"), carried_configs()
    if name in known and str(Path(path).parent) in (".", "configs"):
        return f"{config_folder() / name}.py{colon}{preset}"
    sweep = config_folder() / "sweeps" / f"{name}.py"
    if str(Path(path).parent) in ("sweeps", "configs/sweeps") and sweep.is_file():
        return f"{sweep}{colon}{preset}"
    near = get_close_matches(name, known, n=1)
    raise ValueError(
        f"there is no file {path!r}; by their names vos_jax carries "
        + ", ".join(known)
        + (f"; did you mean {near[0]!r}?" if near else "")
    )


def config_name(values: flags.FlagValues) -> tuple[str, str | None]:
    """Name (the file's, without .py) and preset of a --config that was given."""
    path, _, preset = config_flags.get_config_filename(values["config"]).partition(":")
    return Path(path).stem, preset or None


def say_config(values: flags.FlagValues) -> None:
    """Print which file --config found, where that is not the one that was typed."""
    if values.config is None or values.quiet:
        return
    typed = config_flags.get_config_filename(values["config"])
    found = find_config(typed)
    if found != typed:
        path = typed.partition(":")[0]
        print(f"config: {found} (carried by vos_jax; there is no file {path!r} here)", flush=True)


class _PathParser(flags.ArgumentParser):
    syntactic_help = "a path"

    def parse(self, argument: str) -> str:
        return os.path.expanduser(argument)

    def flag_type(self) -> str:
        return "string"


class _CarriedToo(flags.ArgumentParser):
    """The library's parser of --config behind `find_config`."""

    def __init__(self, parser: flags.ArgumentParser):
        self._parser = parser

    def parse(self, argument: str) -> ConfigDict:
        found = find_config(argument)
        path = found.partition(":")[0]
        try:
            config = self._parser.parse(found)
            if hasattr(config, "keys"):
                config.keys()  # a file that could not be loaded complains only when it is used
        except (Exception, SystemExit) as error:  # whatever somebody's own file does
            raise ValueError(f"{path}{_config_failure(path, error)}") from None
        if not isinstance(config, ConfigDict):
            raise ValueError(
                f"{path}: get_config returned {type(config).__name__}, expected an"
                " ml_collections.ConfigDict"
            )
        return config


def _config_failure(path: str, error: BaseException) -> str:
    """What went wrong in a config file and where, to follow its name."""
    if isinstance(error, AttributeError) and "'get_config'" in str(error):
        return ": has no function get_config(preset) that returns an ml_collections.ConfigDict"
    if isinstance(error, SystemExit):
        return f": ended the process itself (sys.exit({error.code!r})); return a ConfigDict instead"
    if str(error).startswith("Error whilst parsing"):  # the library puts its own around it
        error = error.__context__
    line = error.lineno if isinstance(error, SyntaxError) else None
    for frame in traceback.extract_tb(error.__traceback__):
        line = frame.lineno if os.path.realpath(frame.filename) == os.path.realpath(path) else line
    place = f", line {line}: " if line else ": "
    if isinstance(error, ModuleNotFoundError) and (error.name or "").split(".")[0] == "configs":
        return f"{place}{error}; the configs that vos_jax carries are modules of vos_jax.configs"
    message = str(error).strip().splitlines() or ["no message"]
    kind = "" if isinstance(error, (ValueError, OSError)) else f"{type(error).__name__}: "
    return f"{place}{kind}{message[-1].strip()}"


def run_command(
    argv: Sequence[str],
    description: str,
    parse: Callable[[Sequence[str]], flags.FlagValues],
    run: Callable[[flags.FlagValues], str],
    errors: tuple[type[Exception], ...] = (ValueError, OSError, ImportError),
) -> None:
    """A command from argv to its last line, which `run` returns.

    description: printed with the flags by --help. How it ends: see `ending_plainly`.
    """
    with ending_plainly(errors):
        args = parse(argv)
        if args.help:
            print(f"{description}\n{args.get_help()}")
            return
        with quiet(args.quiet):
            closing = run(args)
    print(closing)


@contextlib.contextmanager
def ending_plainly(
    errors: tuple[type[Exception], ...] = (ValueError, OSError, ImportError),
) -> Iterator[None]:
    """Wrong flags, `errors`, devices that are not there and an interrupt from the keyboard end the
    process with one message that says what to do, any other exception, a fault of ours, with its
    traceback.
    """
    try:
        yield
    except (flags.Error, *errors) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
    except MemoryError as error:
        sys.exit(f"error: out of memory ({error}); shrink the frames or take fewer of them")
    except Exception:
        if problem := _missing_devices():
            sys.exit(f"error: {problem}")
        raise


class ArgumentParser(argparse.ArgumentParser):
    """One that ends like the other commands where its arguments are wrong: one line, code 1."""

    def error(self, message: str) -> NoReturn:
        print(f"error: {message} ({self.prog} --help lists all arguments)", file=sys.stderr)
        sys.exit(1)


def _missing_devices() -> str | None:
    """What is wrong with JAX_PLATFORMS, where JAX finds no device for it."""
    if "jax" not in sys.modules:  # a command that needs no device
        return None
    try:
        sys.modules["jax"].devices()
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().splitlines()[:1] or ["no such device here"]
        return (
            f"JAX_PLATFORMS={os.environ.get('JAX_PLATFORMS', '')}: {reason[0]}; unset the variable,"
            " or set it to cpu, cuda or tpu where such devices and their jaxlib are installed"
        )
    return None


def _with_underscores(name: re.Match) -> str:
    return "--" + name.group()[2:].replace("-", "_")


def _unknown_field(message: str) -> str:
    found = re.search(r"\w+", message)  # the library quotes the name, once or several times over
    near = re.search(r'Did you mean "([^"]+)"', message)
    return f"config has no field {found.group() if found else message!r}" + (
        f"; did you mean {near.group(1)!r}?" if near else ""
    )
