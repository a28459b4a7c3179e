"""How it runs: the command line, and what is served to Prefect."""
