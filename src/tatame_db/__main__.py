"""`python -m tatame_db` is `tatame-db`."""

from tatame_db.cli.commands import main

main()
