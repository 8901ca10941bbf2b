"""What an installed package holds, laid out by setuptools in seconds without building a wheel."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LAY_OUT = """
import sys
from setuptools.dist import Distribution

package = Distribution({"script_name": "setup.py"})
package.parse_config_files(["pyproject.toml"])
package.get_command_obj("build_py").build_lib = sys.argv[1]
package.run_command("build_py")
print(package.get_version())
"""
LOOK_UP = """
import vos_jax
from vos_jax.command_line import carried_configs, find_config
from vos_jax.configs.feelvos import get_config

print(vos_jax.__file__, *carried_configs(), find_config("configs/stm.py:small"), sep="\\n")
print(get_config("small").model.backbone)
"""


def python(program, *arguments, **options):
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        capture_output=True,
        text=True,
        **options,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The folder that takes the place of site-packages, and the version."""
    pytest.importorskip("setuptools", minversion="61", reason="setuptools lays the package out")
    folder = tmp_path_factory.mktemp("installed")
    return folder, python(LAY_OUT, folder, cwd=ROOT)[-1]


def test_the_package_is_all_that_is_installed_with_every_module_and_config(installed):
    folder, _ = installed
    assert [path.name for path in folder.iterdir()] == ["vos_jax"]
    found = {str(path.relative_to(folder)) for path in folder.rglob("*.py")}
    modules = {str(path.relative_to(ROOT)) for path in ROOT.glob("vos_jax/**/*.py")}
    marks = {path for path in modules if path.startswith("vos_jax/configs/")}  # of the clone
    configs = {f"vos_jax/{path.relative_to(ROOT)}" for path in ROOT.glob("configs/**/*.py")}
    assert len(configs) >= 5
    assert found == (modules - marks) | configs


def test_the_annotation_page_is_installed(installed):
    page = installed[0] / "vos_jax/annotating/page"
    assert sorted(file.name for file in page.iterdir()) == ["page.css", "page.html", "page.js"]


def test_the_version_is_the_modules(installed):
    import vos_jax

    assert installed[1] == vos_jax.__version__


def test_an_installed_package_finds_the_configs_it_carries_from_any_folder(installed, tmp_path):
    folder, _ = installed
    configs = folder / "vos_jax/configs"
    lines = python(LOOK_UP, cwd=tmp_path, env={"PYTHONPATH": str(folder)})
    assert lines == [
        str(folder / "vos_jax/__init__.py"),
        *sorted(path.stem for path in ROOT.glob("configs/*.py")),
        f"{configs / 'stm.py'}:small",
        "mobilenet_v2",
    ]


def test_a_clone_has_its_configs_under_the_same_name(tmp_path):
    lines = python(LOOK_UP, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)})
    assert lines[-2:] == [f"{ROOT / 'configs/stm.py'}:small", "mobilenet_v2"]


def test_the_command_of_an_installed_package_runs_from_any_folder(installed, tmp_path):
    folder, _ = installed
    call = "from vos_jax.cli import main; main(['vos-jax', *'{}'.split()])"
    environment = {"PYTHONPATH": str(folder)}
    for words, first in (("--help", "vos-jax VERB"), ("score --help", "Official metrics")):
        lines = python(call.format(words), cwd=tmp_path, env=environment)
        assert lines[0].startswith(first)
