"""`fulcrum db`: the database's schema."""

import typer

from server.cli.options import DEFAULT_HOME, HomeOption

app = typer.Typer(no_args_is_help=True)


@app.command()
def upgrade(home: HomeOption = DEFAULT_HOME) -> None:
    """Migrate the database to this version's schema; `fulcrum server` does it by itself.

    Examples:

        fulcrum db upgrade

        FULCRUM_DATABASE_URL=postgresql+psycopg://fulcrum@localhost/fulcrum fulcrum db upgrade
    """
    from server.migrate import upgrade as migrate
    from server.settings import Settings

    settings = Settings(home=home)
    migrate(settings.url)
    typer.echo("The database is at this version's schema.")
