"""Render the HTML templates of this folder and of other packages."""

from __future__ import annotations

from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

_HERE = __package__ or ""


def render_template(template: str, package: str = _HERE, /, **values: Any) -> str:
    """Render a page; every value is escaped, and a value that is missing is an error.

    Args:
        template: file name of the template.
        package: the package that has it; what it includes can be here, too.
        values: by name in the template.
    """
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(name, "") for name in (package, _HERE)]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(template).render(values)
