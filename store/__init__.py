"""Our tables and the queries on them, with their migrations. Knows neither Prefect nor HTTP."""
