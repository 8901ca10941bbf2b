"""The page about an evaluation, one file that needs no network."""

from importlib import resources

from etils import epath

from vos_jax.files import write_whole
from vos_jax.inference.writers import new_file
from vos_jax.reporting.contents import as_script, read_contents

NAME = "report.html"


def write_report(
    results: epath.PathLike, file: epath.PathLike | None = None, overwrite: bool = False
) -> epath.Path:
    """Write the page about a folder of results; returns where it is.

    file: by default report.html in the folder. Raises FileExistsError where it exists and overwrite
    is False; else as `read_contents`.
    """
    file = new_file(epath.Path(results) / NAME if file is None else file, overwrite)
    page = resources.files("vos_jax.reporting") / "template"
    css, script, html = (
        (page / f"page.{kind}").read_text(encoding="utf-8") for kind in ("css", "js", "html")
    )
    before, rest = html.split("/*css*/")
    between, rest = rest.split("/*data*/")
    behind, end = rest.split("/*js*/")
    data = as_script(read_contents(results))
    write_whole(file, "".join([before, css, between, data, behind, script, end]).encode())
    return file
