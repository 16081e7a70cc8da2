"""The sweep service: command line, spec, searcher, stoppers and driver."""
