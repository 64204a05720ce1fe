"""schema: the format of the files that ggsurgery reads, for editors."""

from __future__ import annotations

import click

from ._output import print_json


@click.command()
@click.argument("what", metavar="recipe", type=click.Choice(["recipe"]))
def schema(what: str) -> None:
    """Print the JSON schema of recipes, for editors.

    An editor with a YAML language server completes and checks a recipe whose first line is
    `# yaml-language-server: $schema=recipe.schema.json`.

    \b
    Example:
      ggsurgery schema recipe > recipe.schema.json
    """
    from ..pipeline.schema import recipe_schema

    print_json(recipe_schema())
