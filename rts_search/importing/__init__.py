"""Earlier work as rows of a ledger."""
