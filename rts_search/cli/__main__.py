"""`python -m rts_search.cli`, as a cluster's job runs it."""

from rts_search.cli.app import main

main()
